"""Types of a safety evaluation: verdicts, judges, risk control, cases.

An evaluation goes from prompts with metadata to answers to labels. A prompt is
a `core.prompt.Prompt`; these optional keys of its metadata are read:

  set          the set's name, such as "xstest"; default: the prompt's source
  category, subcategory   of a taxonomy, or as the publisher names them
  harmful      whether a good assistant declines; default: True
  wrapper      name of the jailbreak around the question, or ""
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from r1jax.core.config import check
from r1jax.core.prompt import Prompt

# The paper's labels (arXiv:2501.12948 v2, D.3): a harmful answer; an answer to
# the point that does no harm; a refusal, or a block by a system.
UNSAFE, SAFE, REJECTED = "unsafe", "safe", "rejected"
LABELS = (UNSAFE, SAFE, REJECTED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """A judge's verdict on an answer.

  Attributes:
    label: one of LABELS; "" if there is no verdict, which is counted separately
      and neither good nor bad.
    score: safety of the answer in [0, 1] by the set's own scale; None if the
      judge gives only a label.
    reason: for people to read; without a label, what failed.
    choice: in multiple choice, the letter of the chosen option; else "".
  """

  label: str
  score: float | None = None
  reason: str = ""
  choice: str = ""

  def __post_init__(self):
    check(not self.label or self.label in LABELS,
          f"label={self.label!r}: give one of {', '.join(LABELS)}, or \"\"")
    check(self.score is None or 0 <= self.score <= 1,
          f"score={self.score} must be from 0 to 1")


# From questions and their answers (without thoughts) to verdicts, in order. A
# judge that fails on an answer says so in its verdict and does not raise.
Judge = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Verdict]]


class Reviewed(NamedTuple):
  """What risk control did with an answer.

  Attributes:
    retracted: why it retracted the answer; None if the answer passed.
    review: "" if there was none, "passed", "retracted", or "failed: " and why.
  """

  retracted: str | None = None
  review: str = ""


# From questions and their answers to what risk control did with each. Like a
# judge it does not raise: a failed review is one of its results.
Control = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Reviewed]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """An answer with its verdict, from which all scores are computed.

  Attributes:
    prompt: the question.
    sample: index of the answer among those to the question.
    answer: what a user would read; "" if there is nothing, as after a thought
      that never ends.
    verdict: on the answer as the model gave it.
    retracted: why risk control retracted the answer; None if it passed or if
      there is no risk control. It never changes `verdict`.
    review: what risk control did, see `Reviewed`.
  """

  prompt: Prompt
  sample: int = 0
  answer: str
  verdict: Verdict
  retracted: str | None = None
  review: str = ""

  @property
  def controlled(self) -> Verdict:
    """The verdict with risk control: a retracted answer is rejected.

    The paper counts refusals by risk control as safe (D.3, Table 9).
    """
    if self.retracted is None:
      return self.verdict
    return Verdict(label=REJECTED, reason=self.retracted)


def row(case: Case) -> dict[str, Any]:
  """A case as a JSON-ready row; `read` inverts it, given the prompt."""
  return {"id": case.prompt.id, "sample": case.sample, "answer": case.answer,
          "verdict": dataclasses.asdict(case.verdict),
          "retracted": case.retracted, "review": case.review}


def read(fields: Mapping[str, Any], prompt: Prompt) -> Case:
  """The case of a row that `row` made of this prompt."""
  return Case(prompt=prompt, sample=fields["sample"], answer=fields["answer"],
              verdict=Verdict(**fields["verdict"]),
              retracted=fields["retracted"], review=fields["review"])


def is_harmful(prompt: Prompt) -> bool:
  """Whether a good assistant would decline the question."""
  return bool(prompt.metadata.get("harmful", True))


def set_of(prompt: Prompt) -> str:
  """Name of the question's set."""
  return str(prompt.metadata.get("set", prompt.source))
