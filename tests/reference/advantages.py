"""Group advantages, sample by sample, in float64."""

import math


def group(rewards, valid, truncated, normalize="std", policy="keep",
          penalty=0.0, eps=1e-6):
  """One group -> (advantages, kept)."""
  seen = []
  for r, v, cut in zip(rewards, valid, truncated):
    if v and math.isfinite(r):
      seen.append(float(r) - (penalty if cut and policy == "penalise" else 0))
    else:
      seen.append(None)
  known = [r for r in seen if r is not None]
  kept = [r is not None and not (policy == "mask" and cut)
          for r, cut in zip(seen, truncated)]
  if not known or max(known) - min(known) < 1e-6:
    return [0.0] * len(seen), kept
  mean = sum(known) / len(known)
  scale = 1.0
  if normalize == "std":
    scale = eps + math.sqrt(sum((r - mean) ** 2 for r in known) / len(known))
  return [(r - mean) / scale if k else 0.0 for r, k in zip(seen, kept)], kept
