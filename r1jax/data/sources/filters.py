"""Filters of supervised data: loops, mixed languages, unreadable thoughts.

DeepSeek-R1 keeps readable answers: no endless repetition, and in the thought no
mixed languages, no long paragraphs and no code blocks (arXiv:2501.12948 v2,
B.3.2 and B.3.3). It gives no numbers; the limits here are ours. A filter is a
pure function from text and config to a reason or None, and takes linear time.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from r1jax.core import scripts, thoughts
from r1jax.core.config import check
from r1jax.data.text import ngrams

# Formulas and code, which have no language.
_NO_PROSE = re.compile(r"`[^`\n]*`|\$[^$\n]*\$|\\[A-Za-z]+")
_FENCES = ("```", "~~~")
_PERIODS = 64  # longest repeated unit that is searched, in words or characters
_LINE = 20  # characters; shorter lines may be repeated
_TURNS = 8  # fewest repetitions that make a loop


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
  """Limits; 0 (or False) turns a filter off.

  Attributes:
    loop_words: longest total length, in words (Chinese: characters), of a
      repeated unit of up to 64 words.
    loop_characters: longest total length, in characters without spaces, of a
      repeated unit of up to 64 characters.
    line_repeats: how often a line of 20 characters or more may occur.
    repeated_share: largest share of word 10-grams that occurred before in the
      text.
    language_share: least share of the thought's words in the scripts of the
      row's language.
    paragraph_words: most words of a paragraph of a thought.
    code_blocks: whether to refuse fenced code in a thought.
    thinking: whether every answer needs a thought.
    language: ISO 639-1 code for rows that have none.
  """

  loop_words: int = 100
  loop_characters: int = 400
  line_repeats: int = 20
  repeated_share: float = 0.5
  language_share: float = 0.9
  paragraph_words: int = 300
  code_blocks: bool = True
  thinking: bool = True
  language: str = "en"

  def __post_init__(self):
    for name in ("loop_words", "loop_characters", "line_repeats",
                 "paragraph_words"):
      check(getattr(self, name) >= 0,
            f"{name}={getattr(self, name)} is a length; 0 turns it off")
    for name in ("repeated_share", "language_share"):
      check(0 <= getattr(self, name) <= 1,
            f"{name}={getattr(self, name)} is a share, in 0..1")
    scripts.of_language(self.language)


def repetition(text: str, cfg: FilterConfig = FilterConfig()) -> str | None:
  """The reason if text repeats: lines, loops of words or characters, n-grams.
  """
  if cfg.line_repeats:
    lines = collections.Counter(
        line for line in map(str.strip, text.splitlines())
        if len(line) >= _LINE)
    if lines and max(lines.values()) > cfg.line_repeats:
      return "repeated line"
  tokens = ngrams.tokens(text)
  numbers: dict[str, int] = {}
  words = np.array([numbers.setdefault(t, len(numbers)) for t in tokens],
                   np.int64)
  if cfg.loop_words and _loops(words, cfg.loop_words):
    return "word loop"
  if cfg.loop_characters:
    characters = np.frombuffer(
        "".join(text.split()).encode("utf-32-le", "surrogatepass"), np.uint32)
    if _loops(characters, cfg.loop_characters):
      return "character loop"
  if cfg.repeated_share and cfg.repeated_share < 1:
    grams = ngrams.grams([text], 10).hashes
    # In short texts repetition may be style.
    if len(grams) >= 100:
      repeated = 1 - len(np.unique(grams)) / len(grams)
      if repeated > cfg.repeated_share:
        return "repeated text"
  return None


def _loops(items: np.ndarray, limit: int) -> bool:
  """Whether a unit is repeated over more than `limit` items.

  The run must also be longer than `_TURNS` times the unit.
  """
  for period in range(1, _PERIODS + 1):
    longest = max(limit, _TURNS * period)
    if len(items) <= longest:
      return False
    differs = np.flatnonzero(items[period:] != items[:-period])
    ends = np.concatenate([[-1], differs, [len(items) - period]])
    if np.diff(ends).max() - 1 + period > longest:
      return True
  return False


def mixed_language(thought: str, language: str,
                   cfg: FilterConfig = FilterConfig()) -> str | None:
  """The reason if too few words are in the language's scripts.

  Formulas, code and single letters (variables) do not count. Languages of the
  same script are not distinguished.
  """
  counts = scripts.words_by_script(_NO_PROSE.sub(" ", thought), shortest=2)
  target = scripts.of_language(language)
  total, mine = sum(counts.values()), sum(counts.get(s, 0) for s in target)
  if total and mine < cfg.language_share * total:
    return "mixed language"
  return None


def long_paragraph(thought: str, cfg: FilterConfig = FilterConfig()
                   ) -> str | None:
  """The reason if a paragraph (text between blank lines) is too long."""
  paragraph: list[str] = []
  for line in [*thought.splitlines(), ""]:
    if line.strip():
      paragraph.append(line)
    elif paragraph:
      if ngrams.words("\n".join(paragraph)) > cfg.paragraph_words:
        return "long paragraph"
      paragraph = []
  return None


def code_block(thought: str) -> str | None:
  """The reason if a line begins with a code fence."""
  fenced = any(line.lstrip().startswith(_FENCES)
               for line in thought.splitlines())
  return "code block in the thought" if fenced else None


def empty_thinking(text: str) -> str | None:
  """The reason if there is no closed thought with a letter or digit."""
  thought, _, closed = thoughts.split(text)
  empty = not any(character.isalnum() for character in thought)
  return "empty thought" if empty or not closed else None


def reason(text: str, language: str = "", cfg: FilterConfig = FilterConfig()
           ) -> str | None:
  """The first reason to drop an assistant's text, or None.

  Args:
    text: thought and answer.
    language: that the thought should be in; "" for `cfg.language`.
    cfg: the limits.
  """
  if cfg.thinking and (fault := empty_thinking(text)):
    return fault
  thought = thoughts.split(text).thinking
  if cfg.code_blocks and (fault := code_block(thought)):
    return fault
  if cfg.paragraph_words and (fault := long_paragraph(thought, cfg)):
    return fault
  if cfg.language_share and (fault := mixed_language(
      thought, language or cfg.language, cfg)):
    return fault
  return repetition(text, cfg)


def apply(rows: Iterable[Mapping[str, Any]], cfg: FilterConfig = FilterConfig()
          ) -> tuple[list[Mapping[str, Any]], dict[str, int]]:
  """Keeps the rows whose answers all pass.

  Args:
    rows: {"messages": [{"role", "content"}, ...]} or {"prompt", "completion"},
      with an optional "language".
    cfg: the limits.

  Returns:
    (kept rows, {reason: number of dropped rows}).
  """
  kept: list[Mapping[str, Any]] = []
  counts: collections.Counter[str] = collections.Counter()
  for row in rows:
    answers = ([row["completion"]] if "completion" in row else
               [message["content"] for message in row["messages"]
                if message["role"] == "assistant"])
    reasons = (reason(text, row.get("language", ""), cfg) for text in answers)
    if first := next(filter(None, reasons), None):
      counts[first] += 1
    else:
      kept.append(row)
  return kept, dict(sorted(counts.items()))
