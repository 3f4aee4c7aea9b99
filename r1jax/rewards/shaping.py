"""Shaping by length and repetition. Not in the paper; off unless weighted.

Rules see text, not tokens, so the limit is in characters:
`prompt.metadata["max_characters"]`, which every prompt needs that `length` is
to judge. About four English characters, or one and a half Chinese ones, make a
token. What is punished by tokens, whatever the data set, is
`training.advantages`' soft zone.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING

from r1jax.core import scripts
from r1jax.rewards.response import Response
from r1jax.rewards.score import Score

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt

LIMIT = "max_characters"
NGRAM = 20  # tokens: what prose and algebra do not say twice by chance

# Written without spaces, or with long runs between them: by character.
_SINGLE = "".join(
    scripts.SCRIPTS[name] for name in ("Han", "Kana", "Hangul", "Thai"))
_LONGEST = 16  # letters of a token: `aaaa...` and 0.333... are no one word
_TOKEN = re.compile(
    rf"[{_SINGLE}]|[^\W{_SINGLE}]{{1,{_LONGEST}}}|[^\w\s]")


def length(prompt: Prompt, response: Response) -> Score:
  """½ (1 + cos(π n / L)) of n characters: 1 for none, 0 from the limit L on.

  The cosine of the length reward of Yeo et al. (arXiv:2502.03373, CosFn),
  from 1 to 0. Departure: they shorten right answers and lengthen wrong ones; a
  rule does not see another's verdict, so this one always favours the shorter.

  Returns:
    a value in [0, 1]; parts: `characters`.

  Raises:
    ValueError: the prompt has no limit, or one that is not positive.
  """
  limit, n = _limit(prompt), len(response.text)
  value = 0.5 * (1 + math.cos(math.pi * min(1.0, n / limit)))
  return Score(value, True, f"{n} characters", {"characters": float(n)})


def repetition(prompt: Prompt, response: Response) -> Score:
  """Minus the share of n-grams that were said before: distinct / all - 1.

  After the n-gram penalty of Yeo et al. (arXiv:2502.03373), as one
  number for the text where they put one on each repeated token. Tokens are
  words (cut at 16 letters), signs, and single characters of Chinese, Japanese,
  Korean and Thai; n is `NGRAM`. A text of fewer tokens gets 0.

  Returns:
    a value in [-1, 0]; parts: `ngrams`, the denominator.
  """
  del prompt
  # The numbers of tokens in order of first use: their tuples hash faster.
  numbers: dict[str, int] = {}
  tokens = [numbers.setdefault(token.group(), len(numbers))
            for token in _TOKEN.finditer(response.text)]
  total = max(0, len(tokens) - NGRAM + 1)
  if not total:
    return Score(0.0, True, "short", {"ngrams": 0.0})
  distinct = len(set(zip(*(
      itertools.islice(tokens, start, None) for start in range(NGRAM)))))
  return Score(distinct / total - 1, True, f"{total - distinct} repeated",
               {"ngrams": float(total)})


def _limit(prompt: Prompt) -> float:
  limit = prompt.metadata.get(LIMIT)
  if not isinstance(limit, int | float) or not 0 < limit < math.inf:
    raise ValueError(
        f"prompt {prompt.id} has metadata[{LIMIT!r}]={limit!r}; give it the"
        " characters that a completion may have, or leave this rule out")
  return limit
