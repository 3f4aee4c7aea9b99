"""The router of one token at a time, float64."""

import math


def scores(logits, kind):
  if kind == "sigmoid":
    return [1 / (1 + math.exp(-v)) for v in logits]
  top = max(logits)
  weights = [math.exp(v - top) for v in logits]
  return [w / sum(weights) for w in weights]


def select(s, bias, n_activated, n_groups=1, n_limited_groups=1, *,
           best_of_group=None, fill=-math.inf):
  """Chosen experts, best first.

  `bias` None: a group counts its best, else its two best; `best_of_group`
  overrides that. `fill` is the score of experts in other groups.
  """
  z = list(s) if bias is None else [a + b for a, b in zip(s, bias, strict=True)]
  count = best_of_group or (1 if bias is None else 2)
  size = len(z) // n_groups
  ranked = sorted(range(n_groups), reverse=True, key=lambda g: sum(
      sorted(z[g * size:(g + 1) * size], reverse=True)[:count]))
  kept = set(ranked[:n_limited_groups])
  masked = [v if i // size in kept else fill for i, v in enumerate(z)]
  order = sorted(range(len(z)), key=lambda i: (-masked[i], i))
  return order[:n_activated]


def weights(s, chosen, normalize, route_scale):
  total = sum(s[i] for i in chosen) if normalize else 1.0
  return [s[i] / total * route_scale for i in chosen]


def load(chosen_of_token, keep, n_experts):
  counts = [0] * n_experts
  for chosen, real in zip(chosen_of_token, keep, strict=True):
    for i in chosen:
      counts[i] += bool(real)
  return counts
