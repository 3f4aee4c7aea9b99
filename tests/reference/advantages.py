"""Group advantages, sample by sample, in float64."""

import math


def soft(length, longest, zone):
  """DAPO's eq. 13, case by case."""
  if length <= longest - zone:
    return 0.0
  if length <= longest:
    return ((longest - zone) - length) / zone
  return -1.0


def group(rewards, valid, truncated, normalize="std", policy="keep",
          penalty=0.0, eps=1e-6, overlong=None):
  """One group -> (advantages, kept).

  `overlong` is (lengths, longest, zone, factor) of the soft zone.
  """
  seen = []
  for i, (r, v, cut) in enumerate(zip(rewards, valid, truncated)):
    if v and math.isfinite(r):
      r = float(r) - (penalty if cut and policy == "penalise" else 0)
      if overlong:
        lengths, longest, zone, factor = overlong
        r += factor * soft(lengths[i], longest, zone)
      seen.append(r)
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
