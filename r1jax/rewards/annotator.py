"""A program as judge: a utility, and the noise of a human annotator.

Where the true utility of an answer is known, as in a generated world, labels
can be as unreliable as people's, and yet what is lost by it is known: no model
of the labels can be right more often than `ceiling` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from r1jax.core.prompt import Message
from r1jax.rewards.judge import Pair, Preference

# (the conversation so far, an answer) -> how good it is, finite.
Utility = Callable[[Sequence[Message], str], float]

_STREAM = 2  # of randomness, beside those of `judge`


def annotate(utility: Utility, pairs: Sequence[Pair], *, seed: int,
             scale: float = 1.0) -> list[Preference]:
  """One vote a pair by a Bradley-Terry draw.

  P(first is preferred) = sigmoid((u_first - u_second) / scale): the wider
  apart, the surer. Equal ones are a tie, which teaches nothing; every other
  vote is a strong one, so that its pair is kept.

  Args:
    utility: of answers.
    pairs: what to judge.
    seed: not negative; with the pair's id it addresses the draw.
    scale: 0 draws nothing: the better one wins.

  Raises:
    ValueError: a utility is not finite, or the scale is negative.
  """
  if scale < 0:
    raise ValueError(f"scale={scale} must not be negative")
  return [_vote(pair, _lead(utility, pair), seed, scale) for pair in pairs]


def ceiling(utility: Utility, pairs: Sequence[Pair], scale: float) -> float:
  """The accuracy on such labels of one who knows the utility.

  The mean of max(p, 1 - p) over all pairs but ties; NaN where all are.
  """
  leads = [_lead(utility, pair) for pair in pairs]
  sure = [max(p, 1 - p) for p in (
      _probability(lead, scale) for lead in leads if lead)]
  return float(np.mean(sure)) if sure else math.nan


def _vote(pair: Pair, lead: float, seed: int, scale: float) -> Preference:
  vote = int(np.sign(lead)) * 2
  if scale and lead:
    draw = np.random.default_rng((seed, pair.id, _STREAM)).random()
    vote = 2 if draw < _probability(lead, scale) else -2
  return Preference(pair=pair, votes=(vote,), swapped=(False,),
                    delta=float(vote), chosen=int(vote < 0) if vote else None)


def _lead(utility: Utility, pair: Pair) -> float:
  lead = (utility(pair.messages, pair.first)
          - utility(pair.messages, pair.second))
  if not math.isfinite(lead):
    raise ValueError(f"the utilities of pair {pair.id} differ by {lead}; they"
                     " must be finite")
  return lead


def _probability(lead: float, scale: float) -> float:
  if not scale:
    return 1.0 if lead > 0 else 0.0 if lead < 0 else 0.5
  return 1 / (1 + math.exp(-max(-700.0, min(700.0, lead / scale))))
