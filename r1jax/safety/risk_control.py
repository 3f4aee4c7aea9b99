"""Risk control around a service: keywords, a review, retracted answers.

  control = RiskControl(Keywords(read(["default"])), by_model(ask, rules()))
  shown = control.answer(messages, answer)     # the answer, or a notice
  for part in control.stream(messages, pieces):
    show(part)

After each turn (DeepSeek-R1, arXiv:2501.12948 v2, D.3.1) the user's message is
searched for keywords; after a hit a model reviews the conversation, and if it
names a broken rule, the answer is retracted. The paper's keywords and its
decision from the ids are not published: here one broken rule is enough.

If a review fails (no reply, no verdict, an error), `RiskConfig.failed` decides,
and the failure is counted.
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
_SHOWN = 5  # reasons that `lines` names


@dataclasses.dataclass(frozen=True, kw_only=True)
class RiskConfig:
  """How a service controls its answers."""

  # Who reviews answers: a model, a URL or module:function; "" turns risk
  # control off.
  reviewer: str = ""
  # Keywords in the user's message that trigger a review: files with one keyword
  # per line, default, world (those of the small world), or all, which reviews
  # every answer.
  keywords: tuple[str, ...] = ("default",)
  # Table of the reviewer's rules, with the columns id, name, text separated by
  # tabs; default: the paper's eleven rules in our words.
  rules: str = ""
  # What happens to an answer whose review fails: closed (it is retracted) or
  # open (it passes).
  failed: str = CLOSED
  # How an answer that is to be reviewed is streamed: hold (sent once it has
  # passed) or retract (sent as it is sampled, and retracted if it breaks a
  # rule).
  stream: str = HOLD
  # Text that replaces a retracted answer.
  message: str = "Sorry, I cannot help with that."
  seed: int = 0  # seed of the random delimiters in the reviewer's prompt

  def __post_init__(self):
    check(self.failed in (CLOSED, OPEN),
          f"failed={self.failed!r} must be {CLOSED} or {OPEN}")
    check(self.stream in (HOLD, RETRACT),
          f"stream={self.stream!r} must be {HOLD} or {RETRACT}")
    check(bool(self.keywords), "keywords has no file; give files, or all")
    check(bool(self.message.strip()), "message is blank: give the text that"
          " replaces a retracted answer")


class Decision(NamedTuple):
  """Risk control's decision on an answer.

  Attributes:
    retracted: whether the answer is retracted.
    text: what the user may see.
    hits: keywords in the user's message.
    review: the reviewer's verdict; None if there was no review.
  """

  retracted: bool
  text: str
  hits: tuple[str, ...]
  review: Review | None

  @property
  def reviewed(self) -> Reviewed:
    """The decision in words."""
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
  """A part of a streamed answer.

  Attributes:
    text: new text to show.
    retracts: whether it replaces all text shown before.
  """

  text: str
  retracts: bool = False


class RiskControl:
  """Decides which answers leave a service.

  Attributes:
    counts: numbers of turns, hits (turns with a keyword), retracted answers,
      failed reviews, and abandoned streams, which the client left before their
      review.
    failures: reason of a failed review -> number.
  """

  def __init__(self, keywords: Keywords | None, reviewer: Reviewer,
               cfg: RiskConfig = RiskConfig(), *,
               silent: Mapping[str, int] | None = None):
    """Stores its arguments.

    Args:
      keywords: trigger a review; None reviews every answer.
      reviewer: see `review`. If it raises, all reviews of the call have failed.
      cfg: other settings; its reviewer, keywords and rules are not read here.
      silent: the reviewer's own counts of missing replies by reason, which
        `lines` shows.
    """
    self._keywords, self._reviewer, self._cfg = keywords, reviewer, cfg
    self._silent = {} if silent is None else silent
    self._lock = threading.Lock()
    self.counts: collections.Counter[str] = collections.Counter()
    self.failures: collections.Counter[str] = collections.Counter()

  def decide(self, turns: Sequence[Turn]) -> list[Decision]:
    """The decision on each answer; the reviewer is called once for all."""
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
    """The text that a user may see: the answer, or the notice in its place.

    Args:
      messages: the conversation, which ends with the user's message.
      answer: all that would be shown, the thought included if that is shown.
    """
    return self.decide([Turn(messages, answer)])[0].text

  def begin(self, messages: Sequence[Message]) -> Watch:
    """Watches an answer to these messages that comes in pieces."""
    return Watch(self, messages)

  def stream(self, messages: Sequence[Message], pieces: Iterable[str]
             ) -> Iterator[Part]:
    """Streams what a user may see of an answer.

    Without a keyword in the user's message the pieces pass through. Otherwise
    they are held back until the review, or sent at once and retracted if they
    break a rule, as `RiskConfig.stream` says.
    """
    watch = self.begin(messages)
    try:
      for piece in pieces:
        if text := watch.add(piece):
          yield Part(text)
      if (last := watch.end()).text:
        yield last
    finally:
      watch.leave()

  def control(self, prompts: Sequence[Prompt], answers: Sequence[str]
              ) -> list[Reviewed]:
    """The decisions on answers to questions, as a `verdicts.Control`."""
    return [decision.reviewed for decision in self.decide(
        [Turn(prompt.messages, answer)
         for prompt, answer in zip(prompts, answers, strict=True)])]

  def lines(self) -> list[str]:
    """Lines for the log: the counts so far, and why reviews failed."""
    count = self.counts
    lines = [f"risk control: {count['hits']} of {count['turns']} turns reviewed"
             f", {count['retracted']} answers retracted,"
             f" {count['failed']} reviews failed ({self._cfg.failed})"]
    if count["abandoned"]:
      lines.append(f"risk control: {count['abandoned']} streams ended before"
                   " their review")
    for what, reasons in (("without a review", self.failures),
                          ("without an answer", self._silent)):
      lines += [f"risk control: {number} {what}: {reason}" for reason, number
                in collections.Counter(reasons).most_common(_SHOWN)]
    return lines

  def _count(self, what: str) -> None:
    with self._lock:
      self.counts[what] += 1

  def _hits(self, messages: Sequence[Message]) -> tuple[str, ...]:
    if self._keywords is None:
      return ("all",)
    # All since the last answer: a client can divide its question into several
    # messages, of any role. A system message at the start is the service's own.
    said: list[str] = []
    own = len(messages) > 1 and messages[0]["role"] == "system"
    for message in messages[own:]:
      said = [] if message["role"] == "assistant" else [
          *said, message["content"]]
    return self._keywords.find("\n".join(said))

  def _reviews(self, turns: Sequence[Turn]) -> Sequence[Review]:
    if not turns:
      return []
    try:
      reviews = self._reviewer(turns)
      check(len(reviews) == len(turns),
            f"{len(reviews)} reviews of {len(turns)} turns")
    except Exception as error:  # an error must not let an answer pass
      return [Review(failed=cause(error))] * len(turns)
    return reviews

  def _decision(self, turn: Turn, hits: tuple[str, ...], review: Review | None
                ) -> Decision:
    retracted = review is not None and (
        self._cfg.failed == CLOSED if review.failed else bool(review.rules))
    text = self._cfg.message if retracted else turn.answer
    return Decision(retracted, text, hits, review)


class Watch:
  """Risk control of one answer that comes in pieces, see `RiskControl.begin`.

  Only `end` may take long: it calls the reviewer.
  """

  def __init__(self, control: RiskControl, messages: Sequence[Message]):
    self._control, self._messages, self._text = control, messages, ""
    self._reviewed, self._open = bool(control._hits(messages)), True
    if not self._reviewed:
      control._count("turns")

  def add(self, piece: str) -> str:
    """Takes the next piece; returns the text that may be shown now."""
    if not self._reviewed:
      return piece
    self._text += piece
    return piece if self._control._cfg.stream == RETRACT else ""

  def end(self) -> Part:
    """Reviews the answer; returns what is shown after all pieces."""
    self._open = False
    if not self._reviewed:
      return Part("")
    decision = self._control.decide([Turn(self._messages, self._text)])[0]
    shown = self._control._cfg.stream == RETRACT and not decision.retracted
    return Part("" if shown else decision.text, decision.retracted)

  def leave(self) -> None:
    """Counts an answer that was shown but not reviewed; after `end`, none."""
    if self._open and self._reviewed and self._control._cfg.stream == RETRACT:
      self._control._count("abandoned")
    self._open = False
