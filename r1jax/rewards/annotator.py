"""A program as preference judge: a known utility with an annotator's noise.

In a generated world the true utility of an answer is known. So labels can be as
noisy as those of people, and the effect of the noise is known too: no reward
model can agree with the labels more often than `ceiling` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from r1jax.core.prompt import Message
from r1jax.rewards.judge import Pair, Preference

# (the conversation so far, an answer) -> how good it is, finite.
Utility = Callable[[Sequence[Message], str], float]

_STREAM = 2  # part of the seed; differs from those in `judge`


def annotate(utility: Utility, pairs: Sequence[Pair], *, seed: int,
             scale: float = 1.0) -> list[Preference]:
  """One vote per pair, drawn from the Bradley-Terry model.

  P(first is preferred) = sigmoid((u_first - u_second) / scale). Equal utilities
  give a tie, which is not used for training. Every other vote is +-2 ("much
  better"), so that the pair is kept.

  Args:
    utility: of answers.
    pairs: what to judge.
    seed: not negative; with the pair's id it seeds the draw.
    scale: of the noise; with 0 the better answer always wins.

  Raises:
    ValueError: a utility is not finite, or the scale is negative.
  """
  if scale < 0:
    raise ValueError(f"scale={scale} must not be negative")
  return [_vote(pair, _lead(utility, pair), seed, scale) for pair in pairs]


def ceiling(utility: Utility, pairs: Sequence[Pair], scale: float) -> float:
  """The best possible accuracy on such labels, from the true utility.

  The mean of max(p, 1 - p) over all pairs without ties; NaN if all are ties.
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
