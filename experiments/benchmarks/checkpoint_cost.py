"""Measures how much saving checkpoints slows training down.

  python -m experiments.benchmarks.checkpoint_cost --json

A decoder is pre-trained on random tokens in one process. Intervals of
`--interval` steps without a save and with one alternate. The save begins after
the first step of its interval and is written while the other steps run.

  state_mb       size of the state: parameters and two moments, float32
  step_s         median step of the intervals without a save
  block_s        duration of the call of `Manager.save`, of which: copy_s
                 (copying the state, so that it can be donated), host_s (host
                 state to JSON), probe_s (checking for space), orbax_s (the
                 rest)
  write_s        from the save until the checkpoint is complete, observed at the
                 ends of steps
  beside_s       how much longer than step_s the steps of the interval took
                 together, without block_s
  wait_s         waiting for the write after the end of the interval
  cost_fraction  (block_s + beside_s + wait_s) / (--interval x step_s)
  cost_cpu_fraction  the increase of the process's CPU seconds, which depends
                 less on other load
  interval_5     steps between saves at which saving costs 5 %

All seconds but step_s are medians over rounds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from r1jax.checkpoint import manager, trees
from r1jax.core.types import TokenBatch
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.report import progress, tables
from r1jax.training import objectives, optimizer
from r1jax.training import trainer as trainer_lib

from .. import start
from .output import JSON

INTERVAL = flags.DEFINE_integer(
    "interval", 25, "Steps between saves.", lower_bound=2)
ROUNDS = flags.DEFINE_integer(
    "rounds", 3, "Pairs of intervals, without and with a save.", lower_bound=1)
ROWS = flags.DEFINE_integer("rows", 16, "Rows of a step.", lower_bound=1)
LENGTH = flags.DEFINE_integer("length", 192, "Tokens of a row.", lower_bound=1)
LAYERS = flags.DEFINE_integer(
    "layers", 7, "Layers of the decoder, with 47 MB of state each.",
    lower_bound=1)
FOLDER = flags.DEFINE_string(
    "folder", "", "Where to save; default: a temporary folder.")


class Trainer:
  """Repeats pre-training steps, which donate their state, on one batch."""

  def __init__(self, shown: progress.Progress):
    self._shown = shown
    model = build(dataclasses.replace(
        presets.get("peer-small"), d_model=512, n_heads=8, n_kv_heads=4,
        d_ff=2048, n_layers=LAYERS.value), Compute())
    self._trainer = trainer_lib.Trainer(
        model, jax.jit(model.init)(jax.random.key(0)),
        model.init_router_bias(),
        objectives.lm_objective(model, objectives.LmConfig()),
        optimizer.OptimizerConfig(lr=1e-3))
    shape = ROWS.value, LENGTH.value
    tokens_BT = np.random.default_rng(0).integers(
        0, model.cfg.vocab_size, shape, dtype=np.int32)
    self._batch = TokenBatch(
        tokens_BT=tokens_BT, targets_BT=np.roll(tokens_BT, -1, 1),
        segments_BT=np.ones(shape, np.int32),
        positions_BT=np.arange(LENGTH.value, dtype=np.int32) + 0 * tokens_BT,
        mask_BT=np.ones(shape, np.float32))

  @property
  def state(self) -> Any:
    """What is saved."""
    return self._trainer.state

  def step(self) -> float:
    """Trains one step; returns its seconds."""
    began = time.perf_counter()
    self._trainer.update(self._batch, 1)
    jax.block_until_ready(self.state)
    seconds = time.perf_counter() - began
    self._shown.step({"seconds": seconds})
    return seconds


@contextlib.contextmanager
def timed(owner: Any, name: str, seconds: dict[str, float], key: str
          ) -> Iterator[None]:
  """Adds the seconds of every call of `owner.name` to seconds[key]."""
  function: Callable[..., Any] = getattr(owner, name)
  seconds.setdefault(key, 0.0)

  def wrapped(*args, **kwargs):
    began = time.perf_counter()
    try:
      return jax.block_until_ready(function(*args, **kwargs))
    finally:
      seconds[key] += time.perf_counter() - began

  setattr(owner, name, wrapped)
  try:
    yield
  finally:
    setattr(owner, name, function)


def plain(trainer: Trainer) -> tuple[list[float], float]:
  """An interval without a save: (seconds of each step, CPU seconds)."""
  began = time.process_time()
  steps = [trainer.step() for _ in range(INTERVAL.value)]
  return steps, time.process_time() - began


def saving(trainer: Trainer, saves: manager.Manager, number: int
           ) -> dict[str, Any]:
  """An interval with a save: its seconds by part, see the module."""
  cpu, seconds = time.process_time(), {}
  steps = [trainer.step()]
  began = time.perf_counter()
  with (timed(manager, "_snapshot", seconds, "copy_s"),
        timed(manager, "_probe", seconds, "probe_s"),
        timed(manager.json, "dumps", seconds, "host_s")):
    saves.save(number, {"state": trainer.state}, {"stream": {"at": number}})
  written = time.perf_counter()
  block = written - began
  seconds |= {"block_s": block, "orbax_s": block - sum(seconds.values())}
  for _ in range(INTERVAL.value - 1):
    steps.append(trainer.step())
    if "write_s" not in seconds and (saves.directory / str(number)).exists():
      seconds["write_s"] = time.perf_counter() - written
  ended = time.perf_counter()
  saves.wait()
  seconds["wait_s"] = time.perf_counter() - ended
  seconds.setdefault("write_s", time.perf_counter() - written)
  return seconds | {"steps": steps, "cpu": time.process_time() - cpu}


def measure(folder: str, shown: progress.Progress) -> dict[str, Any]:
  """Measures everything; the module describes the names."""
  trainer = Trainer(shown)
  trainer.step()
  sizes = [leaf.nbytes for leaf in trees.flatten(trainer.state).values()]
  saves = manager.Manager(folder, keep=2)
  saves.save(1, {"state": trainer.state}, {})  # compiles the copies
  saves.wait()
  rounds, without, cpu = [], [], []
  for number in range(ROUNDS.value):
    steps, seconds = plain(trainer)
    without += steps
    cpu.append(seconds)
    rounds.append(saving(trainer, saves, 2 + number))
  saves.close()
  step_s = statistics.median(without)
  parts = {name: statistics.median(r[name] for r in rounds)
           for name in ("block_s", "copy_s", "host_s", "probe_s", "orbax_s",
                        "write_s", "wait_s")}
  beside = statistics.median(
      sum(r["steps"]) - step_s * INTERVAL.value for r in rounds)
  cost = parts["block_s"] + beside + parts["wait_s"]
  return {
      "state_mb": sum(sizes) / 1e6, "leaves": len(sizes),
      "interval": INTERVAL.value, "step_s": step_s, **parts,
      "beside_s": beside, "cost_fraction": cost / (step_s * INTERVAL.value),
      "cost_cpu_fraction": sum(r["cpu"] for r in rounds) / sum(cpu) - 1,
      "interval_5": max(0, math.ceil(cost / (0.05 * step_s))),
      "rounds": ROUNDS.value,
      "saves": [{k: round(v, 3) for k, v in r.items() if k != "steps"}
                | {"steps_s": round(sum(r["steps"]), 3)} for r in rounds]}


def main() -> None:
  jax.config.update("jax_enable_compilation_cache", False)
  with contextlib.ExitStack() as stack:
    folder = FOLDER.value or stack.enter_context(tempfile.TemporaryDirectory())
    shown = stack.enter_context(progress.Progress(
        "training", 1 + 2 * ROUNDS.value * INTERVAL.value))
    results = {
        "jax": jax.__version__,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cpus": os.cpu_count(),
        **measure(os.fspath(epath.Path(folder) / "checkpoints"), shown),
        "load_average": os.getloadavg()[0]}
  if JSON.value:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v
                      for k, v in results.items()}), flush=True)
    return
  rows = [[k, f"{v:,.4g}" if isinstance(v, float) else str(v)]
          for k, v in results.items() if k != "saves"]
  print(tables.render(["measure", "value"], rows), flush=True)


if __name__ == "__main__":
  start.run(main)
