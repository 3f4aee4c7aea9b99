"""Losses of reward models, number by number, in float64."""

import math


def log_sigmoid(x):
  return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def pairwise(chosen, rejected, margin, mask, weights):
  """(sum, weight) of flat lists."""
  total, weight = 0.0, 0.0
  for c, r, m, kept, w in zip(chosen, rejected, margin, mask, weights):
    if kept:
      total -= float(w) * log_sigmoid(float(c) - float(r) - float(m))
      weight += float(w)
  return total, weight


def centring(chosen, rejected, mask, weights):
  total, weight = 0.0, 0.0
  for c, r, kept, w in zip(chosen, rejected, mask, weights):
    if kept:
      total += float(w) * (float(c) + float(r))**2
      weight += float(w)
  return total, weight


def pointwise(scores, labels, mask, weights):
  total, weight = 0.0, 0.0
  for s, y, kept, w in zip(scores, labels, mask, weights):
    if kept:
      s, y = float(s), float(y)
      total -= float(w) * (y * log_sigmoid(s) + (1 - y) * log_sigmoid(-s))
      weight += float(w)
  return total, weight
