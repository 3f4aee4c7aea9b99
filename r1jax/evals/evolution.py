"""How often a policy reflects (paper, self-evolution of R1-Zero)."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable

# The paper's list, merged from three experts.
REFLECTIVE = ("wait", "mistake", "however", "but", "retry", "error", "verify",
              "wrong", "evaluate", "check")
_WORD = re.compile(r"[a-z]+")


def reflection(texts: Iterable[str]) -> dict[str, float]:
  """Share of all words that each reflective word makes up.

  Whole words, case ignored (`checked` is not `check`: the paper is silent on
  inflection). Returns {word: share} and their sum under "all"; zeros without
  words.
  """
  counts: collections.Counter[str] = collections.Counter()
  for text in texts:
    counts.update(_WORD.findall(text.lower()))
  words = max(counts.total(), 1)
  shares = {word: counts[word] / words for word in REFLECTIVE}
  return shares | {"all": sum(shares.values())}
