"""The definition of a benchmark: questions, wording, scorer, statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import Prompt, ask
from r1jax.evals.benchmarks import statistic
from r1jax.evals.benchmarks.statistic import Numbers
from r1jax.rewards.score import Rule

QUESTION = "{question}"
BARE = "bare"  # key of metadata: the question without the benchmark's wording

# Scorers.
RULE = "rule"  # the prompt's verifier
GRADES = "grades"  # a judge, against the reference: correct or not
ATTEMPTS = "attempts"  # the same, or not attempted
PAIRS = "pairs"  # a judge compares with a baseline's answer, in both orders

# The paper evaluates with at most this many tokens (A2 D.1).
PAPER_TOKENS = 32768

# The wording that R1's README recommends for mathematics.
BOXED = (QUESTION + "\n\nReason step by step, and put your final answer within"
         " \\boxed{}.")
BOXED_ZH = QUESTION + "\n\n请逐步推理，并把最终答案放在 \\boxed{} 中。"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """One benchmark.

  Attributes:
    name: short name for flags and folders.
    title: name in tables.
    source: key of `data.sources.load.SOURCES`, whose reader documents the
      publisher's format.
    split: a split of the source, or a part of one (`test[:64]`).
    publisher: where the publisher provides the files; "" if generated.
    folder: subfolder of the folder with all benchmarks' files; by default the
      source's name.
    samples: k, samples per problem; the paper uses 64 for AIME and GPQA, 16 for
      MATH and Codeforces, 8 for LiveCodeBench, 4 to 64 in all (A2 D.1).
    tokens: the most tokens of a completion.
    wording: template around the question, with {question} once.
    shots: number of examples before the question, from `shots_split`.
    shown: the answer shown with an example.
    selected: which prompts are evaluated.
    level: key of the metadata by which figures are split; "" for none.
    scorer: RULE, GRADES, ATTEMPTS or PAIRS.
    rules: accuracy rules by verifier that replace those of `rewards.rules`.
    numbers: computes the figures from the rows.
    paper: whether R1's article reports it.
  """

  name: str
  title: str
  source: str
  split: str = "test"
  publisher: str = ""
  folder: str = ""
  samples: int = 4
  tokens: int = PAPER_TOKENS
  wording: str = QUESTION
  shots: int = 0
  shots_split: str = "train"
  shown: Callable[[Prompt], str] = lambda prompt: str(prompt.reference)
  selected: Callable[[Prompt], bool] = lambda prompt: True
  level: str = ""
  scorer: str = RULE
  rules: Mapping[str, Rule] = dataclasses.field(default_factory=dict)
  numbers: Numbers = statistic.accuracy
  paper: bool = False

  @property
  def by_rule(self) -> bool:
    """Whether a rule judges it; otherwise a judge model is needed."""
    return self.scorer == RULE


def asked(benchmark: Benchmark, prompts: Sequence[Prompt],
          examples: Sequence[Prompt] = (), wording: str = "") -> list[Prompt]:
  """The benchmark's prompts in its wording, with examples.

  The original question is kept in metadata[BARE].

  Args:
    benchmark: its definition.
    prompts: all prompts of its source.
    examples: the pool of few-shot examples; each question draws its own from a
      generator seeded by its id.
    wording: replaces the benchmark's wording; {question} occurs once in it.

  Raises:
    ValueError: no prompt is selected, or there are too few examples.
  """
  kept = [prompt for prompt in prompts if benchmark.selected(prompt)]
  check(bool(kept), f"{benchmark.name}: none of the {len(prompts)} problems"
        " belongs to this benchmark's selection")
  check(len(examples) >= benchmark.shots, f"{benchmark.name} needs"
        f" {benchmark.shots} examples; there are {len(examples)}")
  return [_asked(benchmark, prompt, examples, wording or benchmark.wording)
          for prompt in kept]


def _asked(benchmark: Benchmark, prompt: Prompt, examples: Sequence[Prompt],
           wording: str) -> Prompt:
  question = wording.replace(QUESTION, prompt.question)
  if benchmark.shots:
    drawn = np.random.default_rng(prompt.id).permutation(len(examples))
    shown = [examples[at] for at in drawn[:benchmark.shots]]
    question = "\n\n".join([
        *(f"{one.question}\n\n{benchmark.shown(one)}" for one in shown),
        question])
  metadata = prompt.metadata | {BARE: prompt.question}
  level = metadata.get(benchmark.level)
  if benchmark.level == "language":
    level = prompt.language
  metadata["level"] = level
  return dataclasses.replace(
      prompt, messages=(*prompt.messages[:-1], *ask(question)),
      metadata=metadata)
