"""Best-fit packing as plain loops."""

import numpy as np


def plan(lengths, capacity):
  """Rows of indices: longest first, each where the least space remains."""
  rows, free = [], []
  for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
    best = None
    for r in range(len(rows)):
      if free[r] >= lengths[i] and (best is None or free[r] < free[best]):
        best = r
    if best is None:
      rows.append([])
      free.append(capacity)
      best = len(rows) - 1
    rows[best].append(i)
    free[best] -= lengths[i]
  return rows


def pack(sequences, rows_of, capacity, count, *, shift=1, restart=True):
  """Dict of arrays; sequences are dicts with tokens, prompt and the rest.

  `shift` and `restart` exist to be broken by a test.
  """
  shape = (count, capacity)
  out = {
      name: np.zeros(shape, np.float64)
      for name in ("tokens", "targets", "segments", "positions", "mask",
                   "advantages", "logprobs")}
  layers, chosen = sequences[0]["experts"].shape[1:]
  out["experts"] = np.zeros((*shape, layers, chosen))
  for row, items in enumerate(rows_of):
    slot = 0
    for segment, i in enumerate(items):
      s = sequences[i]
      for t in range(len(s["tokens"]) - 1):
        target = t + shift
        out["tokens"][row, slot] = s["tokens"][t]
        out["targets"][row, slot] = s["tokens"][target]
        out["segments"][row, slot] = segment + 1
        out["positions"][row, slot] = t if restart else slot
        out["advantages"][row, slot] = s["advantage"]
        out["experts"][row, slot] = s["experts"][t]
        if target >= s["prompt"]:
          out["mask"][row, slot] = 1
          out["logprobs"][row, slot] = s["logprobs"][target - s["prompt"]]
        slot += 1
  return out
