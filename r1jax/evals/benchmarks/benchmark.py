"""What a benchmark is: questions, their wording, a scorer, a statistic."""

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
BARE = "bare"  # in a prompt's metadata, its question before it was worded

# Who says what an answer is worth.
RULE = "rule"  # the prompt's verifier
GRADES = "grades"  # a judge, against the reference: correct or not
ATTEMPTS = "attempts"  # the same, and whether an answer was attempted at all
PAIRS = "pairs"  # a judge, between the answer and a baseline's, both ways round

# The paper evaluates with at most this many tokens (A2 D.1).
PAPER_TOKENS = 32768

# R1's own advice for mathematics; its README.
BOXED = (QUESTION + "\n\nReason step by step, and put your final answer within"
         " \\boxed{}.")
BOXED_ZH = QUESTION + "\n\n请逐步推理，并把最终答案放在 \\boxed{} 中。"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """One benchmark.

  Attributes:
    name: short, for flags and folders.
    title: for tables.
    source: in `data.sources.load.SOURCES`; its reader says what the upstream
      format is.
    split: of the source, or a part of one (`test[:64]`).
    publisher: where its publisher puts the files; "" where it is generated.
    folder: of the files in the folder of all benchmarks' files; by default the
      source's name.
    samples: k, a problem; the paper has 64 for AIME and GPQA, 16 for MATH and
      Codeforces, 8 for LiveCodeBench, 4 to 64 in all (A2 D.1).
    tokens: of a completion, at most.
    wording: the question's, with {question} once.
    shots: examples before the question, from `shots_split`.
    shown: a shot's answer as it is shown.
    selected: which prompts count.
    level: key of the metadata that figures are split by; "" for none.
    scorer: one of the four above.
    rules: accuracy rules by verifier, in place of those of `rewards.rules`.
    numbers: the figures.
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
    """Whether a rule judges it; else a model must be named."""
    return self.scorer == RULE


def asked(benchmark: Benchmark, prompts: Sequence[Prompt],
          examples: Sequence[Prompt] = (), wording: str = "") -> list[Prompt]:
  """The questions as the model gets them; as they were in metadata[BARE].

  Args:
    benchmark: whose.
    prompts: of its source.
    examples: to draw shots from; each question draws its own, by its id.
    wording: in place of the benchmark's; {question} stands once in it.

  Raises:
    ValueError: nothing is selected, or there are too few examples.
  """
  kept = [prompt for prompt in prompts if benchmark.selected(prompt)]
  check(bool(kept), f"{benchmark.name}: none of {len(prompts)} problems is"
        " among those that it counts")
  check(len(examples) >= benchmark.shots, f"{benchmark.name} shows"
        f" {benchmark.shots} examples; {len(examples)} are there")
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
