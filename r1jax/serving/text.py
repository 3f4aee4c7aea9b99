"""Token ids of one answer to text as they arrive: stops, thought and content.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from r1jax.core.thoughts import CLOSE, OPEN
from r1jax.data.text.tokenizer import TextStream, Tokenizer


class Stopped:
  """Incremental text of an answer; it ends before the first stop text,
  the one that is complete after the fewest ids.

  Attributes:
    met: whether a stop text was reached.
    taken: ids up to there; those after it are not part of the answer.
  """

  def __init__(self, tokenizer: Tokenizer, tail: str, stops: Sequence[str]):
    """Starts an answer.

    Args:
      tokenizer: the model's; its end-of-sequence tokens give no text.
      tail: the beginning of the answer that is already in the prompt.
      stops: stop texts, none empty.
    """
    self._ends = tokenizer.eos_ids
    self._text, self._stops, self.met = TextStream(tokenizer), stops, False
    self._held, self.taken = "", 0
    self._tail = tail

  def add(self, ids: Sequence[int]) -> str:
    """Takes new ids and returns the text that is now certain; may be empty.

    An end that could be the beginning of a stop is held back.
    """
    # One by one if there are stops: a chunk may go on after one.
    step, text = 1 if self._stops else max(len(ids), 1), ""
    for first in range(0, len(ids), step):
      some = ids[first:first + step]
      text += self._passed(
          self._text.add(i for i in some if i not in self._ends))
      self.taken += len(some)
      if self.met:
        break
    return text

  def end(self) -> str:
    """Returns the text that was held back; no ids follow."""
    text = self._passed("" if self.met else self._text.end())
    text, self._held = text + self._held, ""
    return text

  def _passed(self, new: str) -> str:
    if self.met:
      return ""
    self._held += new
    found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
    if found:
      self.met, text, self._held = True, self._held[:min(found)], ""
    else:
      kept = _beginning(self._held, self._stops)
      text = self._held[:len(self._held) - kept]
      self._held = self._held[len(text):]
    tail, self._tail = self._tail, ""
    return tail + text


class Piece(NamedTuple):
  """New text of an answer: of its thought, and of the content after it."""

  thought: str = ""
  content: str = ""


class Apart:
  """Separates thought and content as the text grows.

  A thought must come first and ends at the first `</think>`, while
  `thoughts.split`, which sees the whole text, ends it at the last one.
  Whitespace around both is dropped.
  """

  def __init__(self):
    self._state, self._held, self._shown = "begin", "", False

  def add(self, text: str) -> Piece:
    """Takes new text and returns the part that is now certain."""
    self._held += text
    thought = ""
    if self._state == "begin":
      begun = self._held.lstrip()
      if begun.startswith(OPEN):
        self._state, self._held = "thought", begun[len(OPEN):]
      elif not OPEN.startswith(begun):
        self._state = "content"
    if self._state == "thought":
      before, closed, after = self._held.partition(CLOSE)
      if closed:
        thought = self._blank(before).rstrip()
        self._state, self._held, self._shown = "content", after, False
      else:
        sure = len(before) - _beginning(before, (CLOSE,))
        sure = len(before[:sure].rstrip())  # dropped if the thought ends here
        thought, self._held = self._blank(before[:sure]), before[sure:]
    if self._state != "content":
      return Piece(thought)
    sure = len(self._held.rstrip())
    content = self._blank(self._held[:sure])
    self._held = self._held[sure:] if self._shown else ""
    return Piece(thought, content)

  def end(self) -> Piece:
    """Returns the text that was held back."""
    text, self._held = self._held.rstrip(), ""
    text = self._blank(text)
    return Piece(text) if self._state == "thought" else Piece("", text)

  def _blank(self, text: str) -> str:
    """Drops whitespace before the part's first character."""
    text = text if self._shown else text.lstrip()
    self._shown = self._shown or bool(text)
    return text


def _beginning(text: str, words: Collection[str]) -> int:
  """Length of the longest suffix of a text that is a proper prefix of a word.
  """
  longest = min(len(text), max((len(w) for w in words), default=1) - 1)
  return next((n for n in range(longest, 0, -1)
               if any(w.startswith(text[-n:]) for w in words)), 0)
