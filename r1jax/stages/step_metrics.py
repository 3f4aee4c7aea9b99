"""Metrics of a GRPO step: sums and counts, added up over processes."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.core.types import Scored
from r1jax.training.advantages import Advantages

Sums = dict[str, tuple[float, int]]  # name -> (sum, how many)


def sums(scored: Scored, advantages: Advantages, others: Sums, *,
         deadline: bool = False) -> dict[str, Any]:
  """This process's part of a step's metrics, JSON-ready, for `merged`.

  With a deadline it also counts the samples that it truncated: those that are
  shorter than max_new_tokens.
  """
  lengths_QG = scored.rollout.lengths_QG
  means = reward_sums(scored) | measure_sums(scored) | {
      "rollout/length_mean": _sum(lengths_QG),
      "rollout/truncated_fraction": _sum(scored.rollout.truncated_QG),
      "rewards/invalid_fraction": _sum(~scored.valid_QG)} | others
  if deadline:
    means["rollout/deadline_fraction"] = _sum(scored.rollout.truncated_QG & (
        lengths_QG < scored.rollout.tokens_QGT.shape[2]))
  # All processes have equally many groups, so fractions have equal weights.
  means |= {f"advantage/{k}": (float(v), 1) for k, v in advantages.info.items()}
  prompts = sum(map(len, scored.rollout.prompt_tokens))
  return {"means": means, "longest": int(lengths_QG.max()),
          "sampled": int(lengths_QG.sum()),
          "read": int(lengths_QG.sum()) + prompts * lengths_QG.shape[1]}


def merged(parts: Sequence[Mapping[str, Any]], laps: Mapping[str, float]
           ) -> dict[str, float]:
  """The metrics of a step.

  Args:
    parts: `sums` of every process.
    laps: seconds of rollout, logprobs, rewards and update.
  """
  sampled, read = (sum(p[name] for p in parts) for name in ("sampled", "read"))
  metrics = means(p["means"] for p in parts) | {
      "rollout/length_max": float(max(p["longest"] for p in parts)),
      "rollout/tokens_per_s": sampled / laps["rollout"],
      "update/tokens_per_s": read / laps["update"],
      # Share of the time that the device waited for verdicts.
      "rewards/wait_fraction": laps["rewards"] / sum(laps.values())}
  return metrics | {f"seconds/{name}": s for name, s in laps.items()}


def means(parts: Iterable[Sums]) -> dict[str, float]:
  """Means over all parts; metrics by domain only if there are several domains.
  """
  total: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
  for part in parts:
    for name, (value, count) in part.items():
      total[name][0] += value
      total[name][1] += count
  domains = {name.split("/")[1] for name in total if _of_domain(name)}
  return {name: value / count for name, (value, count) in total.items()
          if len(domains) > 1 or not _of_domain(name)}


def reward_sums(scored: Scored) -> Sums:
  """Sums of every reward over the samples that it judges, in all and by domain.

  Samples without a verdict are not counted; rewards that judged no sample are
  absent.
  """
  domain_Q = np.array([prompt.domain for prompt in scored.prompts])
  values = dict(scored.parts) | {"combined": scored.rewards_QG}
  totals = {}
  for name, values_QG in values.items():
    judged_QG = scored.valid_QG & ~np.isnan(values_QG)
    if judged_QG.any():
      totals[f"reward/{name}"] = _sum(values_QG[judged_QG])
    for domain in sorted(set(domain_Q)):
      of_QG = judged_QG & (domain_Q == domain)[:, None]
      if of_QG.any():
        totals[f"domain/{domain}/{name}"] = _sum(values_QG[of_QG])
  return totals


def measure_sums(scored: Scored) -> Sums:
  """Sums of the measurements behind the verdicts, as `measure/RULE/NAME`."""
  values = collections.defaultdict(list)
  for row, valid_G in zip(scored.measures, scored.valid_QG, strict=True):
    for sample, valid in zip(row, valid_G, strict=True):
      for name, value in sample.items() if valid else ():
        values[f"measure/{name}"].append(value)
  return {name: _sum(np.array(measured)) for name, measured in values.items()}


def _sum(values: np.ndarray) -> tuple[float, int]:
  return float(values.sum(dtype=np.float64)), values.size


def _of_domain(name: str) -> bool:
  return name.startswith("domain/")
