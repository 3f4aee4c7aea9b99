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


def student_below(t, degrees, steps=20_000):
  """P(T <= t) for t >= 0, the density summed up by Simpson's rule."""
  factor = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
                    ) / math.sqrt(degrees * math.pi)
  total = 0.0
  for i in range(steps + 1):
    x = t * i / steps
    weight = 1 if i in (0, steps) else 4 if i % 2 else 2
    total += weight * factor * (1 + x * x / degrees) ** (-(degrees + 1) / 2)
  return 0.5 + total * t / steps / 3


def student_quantile(share, degrees):
  """The t with P(T <= t) = share, by bisection."""
  low, high = 0.0, 100.0
  for _ in range(60):
    middle = (low + high) / 2
    if student_below(middle, degrees, 2_000) < share:
      low = middle
    else:
      high = middle
  return low


def share_interval(mean, error, count):
  """Both roots s of (mean - s)^2 = t^2 s (1 - s) / trials."""
  t = student_quantile(0.975, count - 1)
  trials = mean * (1 - mean) / error**2 if error else count
  a, b, c = 1 + t * t / trials, -(2 * mean + t * t / trials), mean * mean
  root = math.sqrt(max(b * b - 4 * a * c, 0.0))
  return (-b - root) / (2 * a), (-b + root) / (2 * a)


def consensus(answers, correct, k):
  """Mean over all subsets of k samples of how right their majority is."""
  values = []
  for subset in itertools.combinations(range(len(answers)), k):
    values.append(majority([answers[i] for i in subset], answers, correct))
  return sum(values) / len(values)


def redrawn_variance(answers, correct):
  """Variance of the majority's correctness over all draws with replacement."""
  values = [majority([answers[i] for i in draw], answers, correct)
            for draw in itertools.product(range(len(answers)),
                                          repeat=len(answers))]
  mean = sum(values) / len(values)
  return sum((v - mean) ** 2 for v in values) / len(values)


def majority(voting, answers, correct):
  """Mean correctness of the most frequent answers of `voting`."""
  best = max((voting.count(a) for a in voting if a is not None), default=0)
  winners = {a for a in voting if a is not None and voting.count(a) == best}
  shares = []
  for winner in winners:
    mine = [c for a, c in zip(answers, correct) if a == winner]
    shares.append(sum(mine) / len(mine))
  return sum(shares) / len(shares) if shares else 0.0
