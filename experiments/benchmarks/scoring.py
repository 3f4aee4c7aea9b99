"""Compares the speeds of reward-model scoring and log-probabilities.

  python -m experiments.benchmarks.scoring [--init=base] [--json]

A reward model and its backbone's log-probability pass get the same texts, as
lists of ids, and do what a step of GRPO does with them: packing, placing on the
device, the forward pass, the copy to the host. They take turns, `--reps` times
after a warm-up; medians, in tokens per second.
"""

from __future__ import annotations

import statistics
import time

import jax
import numpy as np
from absl import flags

from r1jax.core import fitting
from r1jax.data.streams import packing
from r1jax.models import scalar_head
from r1jax.stages.scoring import Scoring
from r1jax.training import logprobs, step

from .. import common, start
from .output import show

REPS = flags.DEFINE_integer("reps", 5, "Timed rounds.", lower_bound=1)
ROWS = flags.DEFINE_integer("rows", 16, "Rows of a batch.")
LENGTH = flags.DEFINE_integer("length", 256, "Tokens of a row.")
TEXTS = flags.DEFINE_integer(
    "texts", 256, "Number of random texts, of 16 to 128 tokens each.")


def main() -> None:
  mesh = common.mesh()
  policy, _ = common.policy(0, mesh)
  model = scalar_head.over(policy.model.cfg, policy.model.compute)
  params, bias_LE = scalar_head.grown(
      model, policy.params, policy.router_bias_LE, jax.random.key(0))
  rng = np.random.default_rng(0)
  ids = [rng.integers(4, 500, n).astype(np.int32)
         for n in rng.integers(16, 129, TEXTS.value)]
  scoring = Scoring(model, ROWS.value, LENGTH.value, mesh)
  logprob = logprobs.make_logprobs(policy.model)

  def score():
    scoring(params, bias_LE, ids)

  def log_probabilities():
    plan = fitting.best_fit([len(x) - 1 for x in ids], LENGTH.value)
    for first in range(0, len(plan), ROWS.value):
      batch = packing.pack([
          packing.Sequence(tokens=ids[i])
          for row in plan[first:first + ROWS.value] for i in row],
          LENGTH.value, rows=ROWS.value)
      logprobs_BT, _ = logprob(policy.params, policy.router_bias_LE,
                               step.place(batch, mesh))
      np.asarray(logprobs_BT)

  works = {"scoring": score, "logprobs": log_probabilities}
  seconds: dict[str, list[float]] = {name: [] for name in works}
  with step.on_mesh(mesh):
    for number in range(REPS.value + 1):
      for name, work in works.items():
        began = time.perf_counter()
        work()
        if number:  # the first compiles
          seconds[name].append(time.perf_counter() - began)
  tokens = sum(map(len, ids))
  measures = {f"{name}_tokens_per_s": tokens / statistics.median(took)
              for name, took in seconds.items()}
  measures["ratio"] = (measures["scoring_tokens_per_s"]
                       / measures["logprobs_tokens_per_s"])
  show(measures)


if __name__ == "__main__":
  start.run(main)
