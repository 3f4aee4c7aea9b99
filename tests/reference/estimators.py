"""Estimators by enumeration: subsets, orders of samples, left-out problems."""

from __future__ import annotations

import itertools
import math


def pass_at_k(n, c, k):
  samples = [True] * c + [False] * (n - c)
  subsets = list(itertools.combinations(samples, k))
  return sum(any(s) for s in subsets) / len(subsets)


def mean_and_jackknife(correct):
  """Mean of problem means; error from leaving out one problem at a time."""
  means = [sum(row) / len(row) for row in correct]
  total = sum(means)
  size = len(means)
  left_out = [(total - m) / (size - 1) for m in means]
  centre = sum(left_out) / size
  variance = (size - 1) / size * sum((x - centre) ** 2 for x in left_out)
  return total / size, math.sqrt(variance)


def maj(answers, truth):
  """First of the most frequent answers, averaged over all orders of samples."""
  hits = orders = 0
  for order in itertools.permutations(answers):
    best, votes = None, 0
    for answer in order:
      if answer is not None and order.count(answer) > votes:
        best, votes = answer, order.count(answer)
    hits += best is not None and best == truth
    orders += 1
  return hits / orders
