"""Regressions of judged benchmarks, in float64, by scipy's minimiser.

From the papers' formulas; nothing is shared with `r1jax.evals.benchmarks`.
"""

import math

import numpy as np
from scipy import optimize


def logistic(x, y, w=None, l1=0.0, l2=0.0):
  """argmin sum w CE(y, sigma(x b)) + l1 |b| + l2 |b|^2 / 2; b = u - v >= 0."""
  x, y, size = np.array(x, float), np.array(y, float), len(x[0])
  w = np.ones(len(y)) if w is None else np.array(w, float)

  def value(uv):
    b = uv[:size] - uv[size:]
    q = 1 / (1 + np.exp(-x @ b))
    entropy = -(y * np.log(q) + (1 - y) * np.log(1 - q))
    slope = (w * (q - y)) @ x + l2 * b
    return ((w * entropy).sum() + l1 * uv.sum() + l2 / 2 * (b * b).sum(),
            np.concatenate([slope, -slope]) + l1)

  found = optimize.minimize(
      value, np.full(2 * size, 0.1), jac=True, method="L-BFGS-B",
      bounds=[(0, None)] * (2 * size),
      options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000})
  return found.x[:size] - found.x[size:]


def length_controlled(wins, lead, strength, difficulty=None, tanh=True):
  """AlpacaEval's win rate at equal lengths, for one inverse strength."""
  mean = sum(lead) / len(lead)
  spread = math.sqrt(sum((v - mean)**2 for v in lead) / (len(lead) - 1))
  x = []
  for q, v in enumerate(lead):
    row = [1.0, math.tanh(v / spread) if tanh else v / spread]
    x.append(row + ([] if difficulty is None else [difficulty[q]]))
  b = logistic(x, wins, l1=1 / strength)
  total = 0.0
  for q in range(len(wins)):
    z = b[0] + (0.0 if difficulty is None else b[2] * difficulty[q])
    total += 1 / (1 + math.exp(-z))
  return total / len(wins)


def style_controlled(outcomes, features):
  """Arena-Hard's win rate: b of logit P = b + s z, z standardised."""
  columns = []
  for column in zip(*features):
    mean = sum(column) / len(column)
    spread = math.sqrt(
        sum((v - mean)**2 for v in column) / (len(column) - 1))
    columns.append([(v - mean) / spread for v in column])
  x = [[1.0, *row] for row in zip(*columns)]
  return 1 / (1 + math.exp(-logistic(x, outcomes, l2=1e-6)[0]))


def elo(solved, ratings):
  """The rating of greatest likelihood, and the error of its sandwich."""
  def chance(r, d):
    return 1 / (1 + 10**((d - r) / 400))

  def cost(r):
    return -sum(p * math.log(chance(r, d)) + (1 - p) * math.log(
        1 - chance(r, d)) for p, d in zip(solved, ratings))

  r = optimize.minimize_scalar(
      cost, bounds=(min(ratings) - 800, max(ratings) + 800), method="bounded",
      options={"xatol": 1e-9}).x
  k = math.log(10) / 400
  scores = [k * (p - chance(r, d)) for p, d in zip(solved, ratings)]
  information = sum(
      k * k * chance(r, d) * (1 - chance(r, d)) for d in ratings)
  return r, math.sqrt(sum(s * s for s in scores)) / information
