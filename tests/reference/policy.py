"""GRPO and its kin, sequence by sequence and token by token, in float64.

A sequence is a dict: `advantage`, and lists over its trained tokens: `logp`,
`old`, `ref`, `sampler`.
"""

import math

LIMIT = 20.0  # of what an exponential is taken of


def clamp(x):
  return min(max(x, -LIMIT), LIMIT)


def ratios(sequence, logp, kind):
  n = len(logp)
  logs = [logp[t] - sequence["old"][t] for t in range(n)]
  if kind == "sequence":
    mean = sum(logs) / n
    return [math.exp(clamp(mean))] * n
  return [math.exp(clamp(x)) for x in logs]


def correction(sequence, cap, kind):
  n = len(sequence["old"])
  if cap == 0:
    return [1.0] * n
  gaps = [sequence["old"][t] - sequence["sampler"][t] for t in range(n)]
  if kind == "truncate":
    return [min(math.exp(clamp(g)), cap) for g in gaps]
  inside = -math.log(cap) <= sum(gaps) <= math.log(cap)
  return [1.0 if inside else 0.0] * n


def divergence(logp, ref, kind):
  if kind == "k1":
    return logp - ref
  if kind == "k2":
    return (logp - ref) ** 2 / 2
  r = math.exp(clamp(ref - logp))
  return r - math.log(r) - 1


def loss(sequences, cfg, constants=None):
  """(sum, weight) of the negated objective.

  `constants` are the sequences from which factors without gradient are taken
  (for differences); the sequences themselves if None.
  """
  constants = sequences if constants is None else constants
  total, tokens, count = 0.0, 0, 0
  for sequence, constant in zip(sequences, constants):
    n, a = len(sequence["logp"]), sequence["advantage"]
    if n == 0:
      continue
    rho = ratios(sequence, sequence["logp"], cfg["ratio"])
    fixed = ratios(constant, constant["logp"], cfg["ratio"])
    w = correction(sequence, cfg["tis_cap"], cfg["tis_kind"])
    low, high = 1 - cfg["clip_low"], 1 + cfg["clip_high"]
    inner = 0.0
    for t in range(n):
      if cfg["objective"] == "clip":
        clipped = min(max(rho[t], low), high)
        gain = min(rho[t] * a, clipped * a)
      else:
        gain = min(max(fixed[t], low), high) * a * sequence["logp"][t]
      inner -= w[t] * gain
      inner += cfg["kl_beta"] * divergence(
          sequence["logp"][t], sequence["ref"][t], cfg["kl_estimator"])
    if cfg["aggregation"] == "seq_mean_token_mean":
      inner /= n
    elif cfg["aggregation"] == "constant":
      inner /= cfg["max_length"]
    total, tokens, count = total + inner, tokens + n, count + 1
  return total, (tokens if cfg["aggregation"] == "token_mean" else count)


def exponents(sequence, t, cfg):
  """All that an exponential is taken of at a token."""
  logs = [logp - old for logp, old in zip(sequence["logp"], sequence["old"])]
  mean = sum(logs) / len(logs)
  out = [mean if cfg["ratio"] == "sequence" else logs[t]]
  if cfg["tis_cap"] and cfg["tis_kind"] == "truncate":
    out.append(sequence["old"][t] - sequence["sampler"][t])
  if cfg["kl_estimator"] == "k3":
    out.append(sequence["ref"][t] - sequence["logp"][t])
  return out


def metrics(sequences, cfg):
  """Means over trained tokens."""
  ratio, low, high, kl, clamped, n = 0.0, 0, 0, 0.0, 0, 0
  for s in sequences:
    rho = ratios(s, s["logp"], cfg["ratio"]) if s["logp"] else []
    for t in range(len(rho)):
      cispo = cfg["objective"] == "cispo" and s["advantage"] != 0
      ratio += rho[t]
      low += rho[t] < 1 - cfg["clip_low"] and (s["advantage"] < 0 or cispo)
      high += rho[t] > 1 + cfg["clip_high"] and (s["advantage"] > 0 or cispo)
      kl += divergence(s["logp"][t], s["ref"][t], cfg["kl_estimator"])
      clamped += any(abs(x) > LIMIT for x in exponents(s, t, cfg))
      n += 1
  return {"ratio": ratio / n, "ratio_clamped_fraction": clamped / n,
          "clip_low_fraction": low / n, "clip_high_fraction": high / n,
          "kl": kl / n}


def slopes(sequences, cfg, step=1e-6):
  """Derivative of the sum by each trained log-probability: differences."""
  out = []
  for i in range(len(sequences)):
    row = []
    for t in range(len(sequences[i]["logp"])):
      values = []
      for sign in (1, -1):
        moved = [dict(s, logp=list(s["logp"])) for s in sequences]
        moved[i]["logp"][t] += sign * step
        values.append(loss(moved, cfg, sequences)[0])
      row.append((values[0] - values[1]) / (2 * step))
    out.append(row)
  return out
