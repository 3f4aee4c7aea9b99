"""Random and mutated completions through every rule that runs no program.

In this process, under an alarm that raises. The rules that do run programs,
and many more completions, are `python -m experiments.benchmarks.rewards
--fuzz=10000`; here they only have their right answers and a few others.
"""

from __future__ import annotations

import contextlib
import random
import signal

import hypothesis
import pytest
from hypothesis import strategies as st

from experiments.benchmarks import completions
from r1jax.rewards import format, judge, response, rules
from r1jax.rewards.pool import runner
from r1jax.rewards.score import Score
from tests.rewards import sandboxed

PURE = [i for i, case in enumerate(completions.CASES)
        if case[0] not in rules.PROGRAMS]
PROGRAMS = [i for i, case in enumerate(completions.CASES)
            if case[0] in rules.PROGRAMS]
OTHERS = {name: rule for name, rule in rules.RULES.items()
          if name != "accuracy"} | {"think": format.think}
DEADLINE = 2.0  # seconds of processor time, for one rule
FUZZ = hypothesis.settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck))


@contextlib.contextmanager
def deadline():
  def late(*_):
    raise TimeoutError("deadline")

  before = signal.signal(signal.SIGPROF, late)
  signal.setitimer(signal.ITIMER_PROF, DEADLINE)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def judged(name, rule, prompt, parts):
  with deadline():
    score = rule(prompt, parts)
  assert isinstance(score, Score), (name, prompt.verifier)
  assert completions.judged(name, score) is None, (prompt.verifier, score)
  assert score.answer is None or isinstance(score.answer, str)
  assert all(isinstance(v, float | int) for v in score.parts.values())
  return score


def through_every_rule(text, tail=""):
  parts = response.split(tail, text)
  for case in PURE:
    prompt = completions.prompt(case)
    judged("accuracy", rules.VERIFIERS[prompt.verifier], prompt, parts)
  for name, rule in OTHERS.items():
    judged(name, rule, completions.prompt(0), parts)
  for language in completions.LANGUAGES:
    judged("language", OTHERS["language"], completions.prompt(0, language),
           parts)


def test_cases_cover_every_verifier():
  assert {case[0] for case in completions.CASES} == set(rules.VERIFIERS)


@pytest.mark.parametrize("case", PURE)
def test_right_answers_are_rewarded(case):
  """Else the mutations would start from nothing. Libraries load here."""
  prompt, good = completions.prompt(case), completions.CASES[case][3]
  rule = rules.VERIFIERS[prompt.verifier]
  for text in (good, f"<think>x</think> <answer>{good}</answer>"):
    assert rule(prompt, response.split("", text)).value == 1, good


@FUZZ
@hypothesis.given(st.integers(0, 2**64))
def test_mutated(seed):
  through_every_rule(completions.completion(random.Random(seed)))


@FUZZ
@hypothesis.given(
    st.text(st.characters(categories=None), max_size=300),
    st.sampled_from(["", "<think>", "<think>\n"]))
def test_any_text(text, tail):
  through_every_rule(text, tail)


@FUZZ
@hypothesis.given(st.lists(st.one_of(
    st.sampled_from(completions.PIECES),
    st.from_regex(r"[0-9.,^*/(){}\\a-e+-]{1,12}", fullmatch=True))))
def test_pieces(pieces):
  through_every_rule("</think>" + "".join(pieces))
  through_every_rule(f"</think> \\boxed{{{''.join(pieces)}}}")


@pytest.mark.parametrize("piece", [
    "\\boxed{", "}", "(", "[", "{", "$", "^{9", "!", "\\frac{1}{", "\\sqrt{",
    "A", "B ", "1", "1,", "a ", "- ", "'", "\"", "\\", "=", "|", "\n", "1/",
    "```", "* ", "字", "0.", "x+", "\\{", "not ", "[[", "<answer>", "\n\n"])
def test_long_repetitions(piece):
  """No rule takes more than linear time, or more than its deadline."""
  long = piece * (200_000 // len(piece))
  through_every_rule(f"</think> {long}")
  through_every_rule(f"</think> \\boxed{{{long}}}")


@pytest.mark.parametrize("piece", [" ", "\t", "\n", "\u3000", " \n", "`", "-"])
def test_long_gaps(piece):
  """White space that a pattern may skip, with text on both sides."""
  # Short enough for bounds on the size of an answer.
  long = piece * (9_000 // len(piece))
  through_every_rule(f"</think> The answer is{long}B")
  through_every_rule(f"</think> 1: a{long}b, c = d{long}")


@FUZZ
@hypothesis.given(st.integers(0, 2**64), st.text())
def test_judges_parse_anything(seed, text):
  mutated = completions.completion(random.Random(seed))
  for reply in (text, mutated, f"{mutated}[[A>B]]", f'{{"analysis": {text!r}'):
    assert judge.label(reply) in (None, -2, -1, 0, 1, 2)
    score = judge.verdict(reply)
    assert score.value in (0, 1) and (score.valid or not score.value)


def test_programs():
  sandboxed.require()
  items = []
  for at, case in enumerate(PROGRAMS):
    good = completions.CASES[case][3]
    items += [(completions.prompt(case), "", text) for text in (
        f"<think>x</think> <answer>{good}</answer>", good, "",
        *(completions.completion(random.Random(10 * at + i))
          for i in range(4)))]
  with runner.Pool(rules.RULES, workers=2) as pool:
    scores = pool.submit(items).result(120)
  for (prompt, _, text), row in zip(items, scores):
    for name, score in row.items():
      assert completions.judged(name, score) is None, (
          prompt.verifier, name, score, text)
  assert [row["accuracy"].value for row in scores[0::7]] == [1] * len(PROGRAMS)
  assert [row["accuracy"].value for row in scores[1::7]] == [1] * len(PROGRAMS)
  assert not any(row["accuracy"].value for row in scores[2::7])


@pytest.mark.parametrize("name,score,fault", [
    ("format", Score(1.0, True, ""), None),
    ("format", Score(-0.1, True, ""), "out_of_range"),
    ("repetition", Score(-0.1, True, ""), None),
    ("repetition", Score(0.1, True, ""), "out_of_range"),
    ("accuracy", Score(float("nan"), True, ""), "out_of_range"),
    ("accuracy", Score(0.0, False, "deadline"), "deadlines"),
    ("accuracy", Score(0.0, False, "crash: SIGSEGV"), "exceptions"),
    ("accuracy", Score(0.0, False, "ZeroDivisionError: x"), "exceptions"),
    ("accuracy", Score(0.0, False, "SystemExit: 0"), "exceptions"),
    ("accuracy", Score(0.0, False, "the rule returned 3"), "exceptions"),
    ("accuracy", Score(0.0, False, "no sandbox"), "other_invalid"),
])
def test_faults_are_seen(name, score, fault):
  assert completions.judged(name, score) == fault
