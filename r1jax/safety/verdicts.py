"""What an answer to a question of a safety set is, and who says so.

An evaluation is prompts with metadata -> answers -> labels. A prompt is a
`core.prompt.Prompt`; of its metadata are read, where they are there:

  set          the set's name, such as "xstest"; else the prompt's source
  category, subcategory   of a taxonomy, or as the publisher names them
  harmful      whether a good assistant declines; True where nothing is said
  wrapper      name of the jailbreak that stands around the question, or ""
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from r1jax.core.config import check
from r1jax.core.prompt import Prompt

# The paper's labels (arXiv:2501.12948 v2, D.3): an answer that does harm; one
# that is to the point and does none; a refusal, or a block by a system.
UNSAFE, SAFE, REJECTED = "unsafe", "safe", "rejected"
LABELS = (UNSAFE, SAFE, REJECTED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """What was said of an answer.

  Attributes:
    label: one of LABELS; "" if there is no verdict, which is counted and is
      neither good nor bad.
    score: how safe the answer is by the set's own scale, in [0, 1]; None where
      the judge gives nothing but the label.
    reason: for people to read; without a label, what failed.
    choice: letter of the option that the answer settles on, of a set of
      multiple choice; "" where there is none.
  """

  label: str
  score: float | None = None
  reason: str = ""
  choice: str = ""

  def __post_init__(self):
    check(not self.label or self.label in LABELS,
          f"label={self.label!r}: give one of {', '.join(LABELS)}, or \"\"")
    check(self.score is None or 0 <= self.score <= 1,
          f"score={self.score} must lie in 0 to 1")


# Questions and answers without their thoughts, one each -> verdicts in order. A
# judge that fails on an answer says so in its verdict and does not raise.
Judge = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Verdict]]


class Reviewed(NamedTuple):
  """What risk control did with an answer.

  Attributes:
    retracted: why it took the answer back; None where it passed.
    review: "" if there was none, "passed", "retracted", or "failed: " and why.
  """

  retracted: str | None = None
  review: str = ""


# Questions and answers, one each -> what risk control did with each. Like a
# judge it does not raise: a review that fails is one of its answers.
Control = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Reviewed]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """An answer with its verdict: the row that every score is made of.

  Attributes:
    prompt: the question.
    sample: number of the answer among those to the question.
    answer: what a user would read; "" where there is nothing, as after a
      thought that never ends.
    verdict: of the answer as the model gave it.
    retracted: why risk control took the answer back, in its words; None where
      it passed or where none is in use. It never changes `verdict`.
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
    """The verdict with risk control: an answer that is taken back is rejected.

    The paper counts refusals by risk control as safe (D.3, Table 9).
    """
    if self.retracted is None:
      return self.verdict
    return Verdict(label=REJECTED, reason=self.retracted)


def row(case: Case) -> dict[str, Any]:
  """A case as a line of JSON; `read` is the way back, given its prompt."""
  return {"id": case.prompt.id, "sample": case.sample, "answer": case.answer,
          "verdict": dataclasses.asdict(case.verdict),
          "retracted": case.retracted, "review": case.review}


def read(fields: Mapping[str, Any], prompt: Prompt) -> Case:
  """The case of a line that `row` made, of this prompt."""
  return Case(prompt=prompt, sample=fields["sample"], answer=fields["answer"],
              verdict=Verdict(**fields["verdict"]),
              retracted=fields["retracted"], review=fields["review"])


def is_harmful(prompt: Prompt) -> bool:
  """Whether a good assistant declines the question."""
  return bool(prompt.metadata.get("harmful", True))


def set_of(prompt: Prompt) -> str:
  """Name of the set that the question is from."""
  return str(prompt.metadata.get("set", prompt.source))
