"""Reward shaping by length and repetition; not in the paper, off by default.

Rules see text, not tokens, so the limit is in characters:
`prompt.metadata["max_characters"]`, which `length` requires in every prompt.
About four English or one and a half Chinese characters make a token. The soft
zone of `training.advantages` is a penalty by tokens, for any data set.
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
NGRAM = 20  # tokens; so long a run is not repeated by chance

# Scripts without (frequent) spaces: every character is a token.
_SINGLE = "".join(
    scripts.SCRIPTS[name] for name in ("Han", "Kana", "Hangul", "Thai"))
_LONGEST = 16  # most letters of a token, so that `aaaa...` is not one token
_TOKEN = re.compile(
    rf"[{_SINGLE}]|[^\W{_SINGLE}]{{1,{_LONGEST}}}|[^\w\s]")


def length(prompt: Prompt, response: Response) -> Score:
  """½ (1 + cos(π n / L)) for n characters: 1 for none, 0 from the limit L on.

  The cosine length reward of Yeo et al. (arXiv:2502.03373, CosFn), from 1 to 0.
  Departure: theirs favours short right answers and long wrong ones; a rule does
  not see other verdicts, so this one always favours shorter answers.

  Returns:
    A value in [0, 1]; parts: `characters`.

  Raises:
    ValueError: the prompt has no limit, or one that is not positive.
  """
  limit, n = _limit(prompt), len(response.text)
  value = 0.5 * (1 + math.cos(math.pi * min(1.0, n / limit)))
  return Score(value, True, f"{n} characters", {"characters": float(n)})


def repetition(prompt: Prompt, response: Response) -> Score:
  """Minus the share of repeated n-grams: distinct / all - 1.

  After the n-gram penalty of Yeo et al. (arXiv:2502.03373). Departure: one
  number for the text, where they penalise each repeated token. Tokens are words
  (split at 16 letters), symbols, and single characters of Chinese, Japanese,
  Korean and Thai; n is `NGRAM`. A text with fewer tokens gets 0.

  Returns:
    A value in [-1, 0]; parts: `ngrams`, the denominator.
  """
  del prompt
  # Tokens as numbers, because tuples of numbers hash faster.
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
        f"prompt {prompt.id} has metadata[{LIMIT!r}]={limit!r}; set it to the"
        " number of characters that a completion may have, or do not use the"
        " reward 'length'")
  return limit
