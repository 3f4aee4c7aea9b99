"""Every row of the openly licensed sets, as the suite `shared` asks them.

References score full, known-wrong answers zero. Programs that must run, the
game of 24 and inputs of programs are held to the same in
tests/rewards/programs/test_solutions_data.py and
tests/rewards/logic/test_verdicts_data.py, instructions in
tests/rewards/logic/test_verdicts_data.py.
"""

import ast

import pytest

from r1jax.evals.benchmarks import suites
from r1jax.rewards import response, rules
from r1jax.stages import benchmarking
from tests import shared

# Problems that are asked; what is missing of a file is malformed or has no one
# right answer (tests/data/sources/test_load.py counts those).
COUNTS = {
    "gsm8k": 1319, "mgsm": 2750, "cmath": 600, "cmath_distractor": 360,
    "imo_answerbench": 399, "mmlu_stem": 3018, "mmlu_redux": 5330,
    "ifeval": 541, "bbh": 6508, "logicbench": 2020, "game24": 1362,
    "cruxeval": 800, "cruxeval_input": 800, "humaneval": 164, "mbpp": 257,
    "humanevalfix": 164, "quixbugs": 31, "code_contests": 156,
    "safetybench": 2100, "arena_hard": 500, "mt_bench": 80}
NEW = ("safetybench", "arena_hard", "mt_bench")


def right(prompt):
  reference = prompt.reference
  if prompt.verifier == "choice":
    return f"So it is.\nThe answer is ({reference['answer']})."
  if prompt.verifier == "math":
    return f"So it is \\boxed{{{reference}}}."
  if prompt.verifier == "literal":
    return f"```python\n{reference['value']}\n```"
  return f"<answer> {reference} </answer>"


def wrong(prompt):
  reference = prompt.reference
  if prompt.verifier == "choice":
    letters = [*reference["options"], "I"]  # one row of BBH has one option
    other = next(x for x in letters if x != reference["answer"])
    return f"So it is.\nThe answer is ({other})."
  if prompt.verifier == "math":
    return "So it is \\boxed{7777771}."
  if prompt.verifier == "literal":
    return f"```python\n{[ast.literal_eval(reference['value'])]!r}\n```"
  return "<answer> banana </answer>"


@pytest.mark.parametrize("name", [
    *NEW, *(pytest.param(name, marks=pytest.mark.slow)
            for name in COUNTS if name not in NEW)])
def test_every_row_is_read_and_judged(name, tmp_path, monkeypatch):
  assert set(COUNTS) == set(suites.SUITES["shared"])
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  one = suites.BENCHMARKS[name]
  prompts = benchmarking.questions(one, shared.folder(""))
  assert len(prompts) == COUNTS[name]
  judged = [p for p in prompts if p.verifier in (
      "choice", "math", "exact", "literal")]
  for prompt in judged:
    rule = (one.rules | rules.VERIFIERS)[prompt.verifier]

    def value(text, rule=rule, prompt=prompt):
      return rule(prompt, response.split("<think>", f"x</think>{text}")).value

    assert value(right(prompt)) == 1, prompt.id
    assert value(wrong(prompt)) == 0, prompt.id
