"""A noisy program as judge, and what its noise allows."""

import math

import numpy as np
import pytest

from r1jax.core.prompt import ask
from r1jax.rewards import annotator
from r1jax.rewards.judge import Pair


def pairs(count, lead=1):
  """Every other pair has its better answer second."""
  return [Pair(id=i, messages=ask(f"q{i}"), **dict(zip(
      ("first", "second"), ["x" * lead, ""][::1 - 2 * (i % 2)])))
          for i in range(count)]


def length(messages, text):
  return float(len(text))


def test_without_noise_the_better_one_is_chosen():
  found = annotator.annotate(length, pairs(6), seed=0, scale=0)
  assert [one.chosen for one in found] == [0, 1] * 3
  for scale in (0, 1.0):
    tie, = annotator.annotate(lambda m, t: 0.0, pairs(1), seed=0, scale=scale)
    assert tie.chosen is None and tie.delta == 0
  assert np.isnan(annotator.ceiling(lambda m, t: 0.0, pairs(1), 1.0))


def test_noise_is_bradley_terry():
  found = annotator.annotate(length, pairs(4000, 2), seed=0, scale=2.0)
  right = np.mean([one.chosen == one.pair.id % 2 for one in found])
  p = 1 / (1 + math.exp(-1))
  assert right == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))
  assert annotator.ceiling(length, pairs(9, 2), 2.0) == pytest.approx(p)
  # Addressed: a part of the pairs is labelled as the whole, another seed not.
  part = annotator.annotate(length, pairs(4000, 2)[100:140], seed=0, scale=2.0)
  assert part == found[100:140]
  other = annotator.annotate(length, pairs(40, 2), seed=1, scale=2.0)
  assert [o.chosen for o in other] != [f.chosen for f in found[:40]]


def test_utilities_must_be_numbers():
  with pytest.raises(ValueError, match="pair 0 differ by nan"):
    annotator.annotate(lambda m, t: math.nan, pairs(1), seed=0)
  with pytest.raises(ValueError, match="scale=-1"):
    annotator.annotate(length, pairs(1), seed=0, scale=-1)
