"""What supervised data is checked for: loops, mixed languages, hard reading.

DeepSeek-R1 keeps answers that are readable: no endless repetition, and in the
thought no mixed languages, no long paragraphs, no code blocks (arXiv:2501.12948
v2, B.3.2 and B.3.3). It gives no numbers; the limits here are ours. A filter is
a pure function of text and config to a reason or None, in linear time.
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

# Formulas and code are of no language.
_NO_PROSE = re.compile(r"`[^`\n]*`|\$[^$\n]*\$|\\[A-Za-z]+")
_FENCES = ("```", "~~~")
_PERIODS = 64  # longest loop, in words or characters, that is looked for
_LINE = 20  # characters; shorter lines may well come often
_TURNS = 8  # fewest rounds of a loop


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
  """Limits; 0 (or False) turns a filter off.

  Attributes:
    loop_words: longest run, in words (in Chinese, characters), of a loop of up
      to 64 of them.
    loop_characters: longest run of a loop of up to 64 characters; spaces do not
      count.
    line_repeats: how often one line of 20 characters or more may occur.
    repeated_share: largest share of word 10-grams that occurred before in the
      text.
    language_share: least share of the thought's words in the script of the
      row's language.
    paragraph_words: words of the longest paragraph of a thought.
    code_blocks: whether fenced code is refused in a thought.
    thinking: whether every answer needs a thought.
    language: assumed for rows that name none, ISO 639-1.
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
  """Loops of words, of characters or of lines, or much that comes again."""
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
    # In a few sentences a refrain is style.
    if len(grams) >= 100:
      repeated = 1 - len(np.unique(grams)) / len(grams)
      if repeated > cfg.repeated_share:
        return "repeated text"
  return None


def _loops(items: np.ndarray, limit: int) -> bool:
  """Whether a run longer than `limit` repeats a unit `_TURNS` times or more."""
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
  """Too few words in the script of the language; formulas do not count.

  Languages of one script are not told apart. Words of one letter are names of
  variables.
  """
  counts = scripts.words_by_script(_NO_PROSE.sub(" ", thought), shortest=2)
  target = scripts.of_language(language)
  total, mine = sum(counts.values()), sum(counts.get(s, 0) for s in target)
  if total and mine < cfg.language_share * total:
    return "mixed language"
  return None


def long_paragraph(thought: str, cfg: FilterConfig = FilterConfig()
                   ) -> str | None:
  """A paragraph (text between blank lines) of too many words."""
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
  """A fence of code at the beginning of a line."""
  fenced = any(line.lstrip().startswith(_FENCES)
               for line in thought.splitlines())
  return "code block in the thought" if fenced else None


def empty_thinking(text: str) -> str | None:
  """No thought that ends before an answer, or one without letter or digit."""
  thought, _, closed = thoughts.split(text)
  empty = not any(character.isalnum() for character in thought)
  return "empty thought" if empty or not closed else None


def reason(text: str, language: str = "", cfg: FilterConfig = FilterConfig()
           ) -> str | None:
  """Why what an assistant says is left out, or None: the first that applies.

  Args:
    text: thought and answer.
    language: to think in; `cfg.language` by default.
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
  """The rows all of whose answers pass, and how many did not, by reason.

  Args:
    rows: {"messages": [{"role", "content"}, ...]} or {"prompt", "completion"},
      with an optional "language".
    cfg: the limits.
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
