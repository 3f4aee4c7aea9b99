"""Risk control around a service: keywords, a review, an answer taken back.

  control = RiskControl(Keywords(read(["default"])), by_model(ask, rules()))
  shown = control.answer(messages, answer)     # it, or what stands in its place
  for part in control.stream(messages, pieces):
    show(part)

After each turn (DeepSeek-R1, arXiv:2501.12948 v2, D.3.1) the user's message is
searched for keywords; with a hit a model reviews the conversation, and if it
names a rule, the answer is taken back. The paper's keywords, and how it decides
from the ids, were not published: here any rule is enough.

A review that fails (no answer, no verdict, an error) is decided by `failed`,
and counted.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from r1jax.core.config import check
from r1jax.core.prompt import Message, Prompt
from r1jax.safety.keywords import Keywords
from r1jax.safety.review import Review, Reviewer, Turn, cause
from r1jax.safety.verdicts import Reviewed

CLOSED, OPEN = "closed", "open"
HOLD, RETRACT = "hold", "retract"
_SHOWN = 5  # reasons that are named


@dataclasses.dataclass(frozen=True, kw_only=True)
class RiskConfig:
  """How a service controls its answers."""

  # Who reviews answers: a model, a URL or module:function; "" turns risk
  # control off.
  reviewer: str = ""
  # What starts a review: files with a keyword a line, default, world (the small
  # world's), or all, which reviews every answer.
  keywords: tuple[str, ...] = ("default",)
  # Table of the rules: id, name, text, separated by tabs; default: eleven of
  # our own.
  rules: str = ""
  # What becomes of an answer whose review fails: closed (it is taken back) or
  # open (it passes).
  failed: str = CLOSED
  # How an answer under review is streamed: hold (shown once it has passed) or
  # retract (shown as it grows, taken back if it fails).
  stream: str = HOLD
  # What stands in the place of an answer that is taken back.
  message: str = "Sorry, I cannot help with that."
  seed: int = 0  # seed of the random marks around what is reviewed

  def __post_init__(self):
    check(self.failed in (CLOSED, OPEN),
          f"failed={self.failed!r} must be {CLOSED} or {OPEN}")
    check(self.stream in (HOLD, RETRACT),
          f"stream={self.stream!r} must be {HOLD} or {RETRACT}")
    check(bool(self.keywords), "keywords has no file; give some, or all")
    check(bool(self.message.strip()), "message is blank: what is taken back"
          " needs something in its place")


class Decision(NamedTuple):
  """What becomes of an answer.

  Attributes:
    retracted: whether it is taken back.
    text: what users may see.
    hits: keywords of the user's message.
    review: what the reviewer said; None where nobody was asked.
  """

  retracted: bool
  text: str
  hits: tuple[str, ...]
  review: Review | None

  @property
  def reviewed(self) -> Reviewed:
    """In words."""
    if self.review is None:
      return Reviewed(None, "")
    if self.review.failed:
      why = f"failed: {self.review.failed}"
      return Reviewed(why if self.retracted else None, why)
    if not self.retracted:
      return Reviewed(None, "passed")
    numbers = ", ".join(map(str, self.review.rules))
    return Reviewed(f"rule {numbers}: {self.review.reason}".strip(": "),
                    "retracted")


class Part(NamedTuple):
  """A part of a stream.

  Attributes:
    text: to be shown behind what was shown.
    retracts: whether all that was shown is to be taken away before.
  """

  text: str
  retracts: bool = False


class RiskControl:
  """Decides what leaves a service.

  Attributes:
    counts: turns, hits (with a keyword), retracted, failed (reviews), and
      abandoned: streams that were shown and nobody waited for their review.
    failures: why reviews failed -> how many.
  """

  def __init__(self, keywords: Keywords | None, reviewer: Reviewer,
               cfg: RiskConfig = RiskConfig(), *,
               silent: Mapping[str, int] | None = None):
    """Asks nobody yet.

    Args:
      keywords: that call for a review; None reviews every answer.
      reviewer: see `review`. If it raises, all reviews of the call have failed.
      cfg: the rest; its reviewer, keywords and rules are the caller's business.
      silent: why the reviewer gave no text at all -> how often, as it counts
        itself; only `lines` shows it.
    """
    self._keywords, self._reviewer, self._cfg = keywords, reviewer, cfg
    self._silent = {} if silent is None else silent
    self._lock = threading.Lock()
    self.counts: collections.Counter[str] = collections.Counter()
    self.failures: collections.Counter[str] = collections.Counter()

  def decide(self, turns: Sequence[Turn]) -> list[Decision]:
    """What becomes of each answer; the reviewer is asked once."""
    hits = [self._hits(turn.messages) for turn in turns]
    asked = [at for at, found in enumerate(hits) if found]
    said = dict(zip(asked, self._reviews([turns[at] for at in asked])))
    decisions = [self._decision(turn, found, said.get(at))
                 for at, (turn, found) in enumerate(zip(turns, hits))]
    with self._lock:
      self.counts.update(
          turns=len(turns), hits=len(asked),
          retracted=sum(decision.retracted for decision in decisions),
          failed=sum(bool(review.failed) for review in said.values()))
      self.failures.update(
          review.failed for review in said.values() if review.failed)
    return decisions

  def answer(self, messages: Sequence[Message], answer: str) -> str:
    """What a user may see of an answer: it, or what stands in its place.

    Args:
      messages: the conversation, which ends with the user's message.
      answer: all that would be shown, with the thought if that is shown.
    """
    return self.decide([Turn(messages, answer)])[0].text

  def stream(self, messages: Sequence[Message], pieces: Iterable[str]
             ) -> Iterator[Part]:
    """What a user may see of an answer as it grows.

    Without a keyword in the user's message the pieces pass as they come. Else
    they are held back until the review, or shown and then taken back, as
    `RiskConfig.stream` says.
    """
    if not self._hits(messages):
      with self._lock:
        self.counts["turns"] += 1
      yield from map(Part, pieces)
      return
    text, done = "", self._cfg.stream == HOLD
    try:
      for piece in pieces:
        text += piece
        if self._cfg.stream == RETRACT:
          yield Part(piece)
      done = True
    finally:
      if not done:
        with self._lock:
          self.counts["abandoned"] += 1
    decision = self.decide([Turn(messages, text)])[0]
    if decision.retracted:
      yield Part(decision.text, retracts=True)
    elif self._cfg.stream == HOLD:
      yield Part(decision.text)

  def control(self, prompts: Sequence[Prompt], answers: Sequence[str]
              ) -> list[Reviewed]:
    """As `stages.safety.Control`: what became of the answers to questions."""
    return [decision.reviewed for decision in self.decide(
        [Turn(prompt.messages, answer)
         for prompt, answer in zip(prompts, answers, strict=True)])]

  def lines(self) -> list[str]:
    """What was done so far, for people."""
    count = self.counts
    lines = [f"risk control: {count['hits']} of {count['turns']} turns reviewed"
             f", {count['retracted']} answers taken back,"
             f" {count['failed']} reviews failed ({self._cfg.failed})"]
    if count["abandoned"]:
      lines.append(f"risk control: {count['abandoned']} streams were left"
                   " before their review")
    for what, reasons in (("without a review", self.failures),
                          ("without an answer", self._silent)):
      lines += [f"risk control: {number} {what}: {reason}" for reason, number
                in collections.Counter(reasons).most_common(_SHOWN)]
    return lines

  def _hits(self, messages: Sequence[Message]) -> tuple[str, ...]:
    if self._keywords is None:
      return ("all",)
    return self._keywords.find(messages[-1]["content"])

  def _reviews(self, turns: Sequence[Turn]) -> Sequence[Review]:
    if not turns:
      return []
    try:
      reviews = self._reviewer(turns)
      check(len(reviews) == len(turns),
            f"{len(reviews)} reviews of {len(turns)} turns")
    except Exception as error:  # no answer gets out by an error
      return [Review(failed=cause(error))] * len(turns)
    return reviews

  def _decision(self, turn: Turn, hits: tuple[str, ...], review: Review | None
                ) -> Decision:
    retracted = review is not None and (
        self._cfg.failed == CLOSED if review.failed else bool(review.rules))
    text = self._cfg.message if retracted else turn.answer
    return Decision(retracted, text, hits, review)
