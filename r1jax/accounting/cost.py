"""The cost of runs: chips, seconds by phase, tokens, FLOPs, dollars.

  record = cost.Record(workdir)        # starts counting
  with cost.phase("rollout"):
    rollout = engine.generate(...)
  cost.sampled(model.cfg, rollout)
  record.write()                       # WORKDIR/cost.json

Each process has one global tally, so that code which counts need not know the
run that it is part of; `Record.write` adds everything counted since the last
write. What was counted before a record began belongs to no run, except the
start-up time of the process. A record adds up over resumes; only what was spent
between its last write and a kill is lost.
FLOPs are counted by `accounting.flops`, without the MTP module; training a LoRA
adapter counts as training all parameters, and SFT's held-out losses add time
but no FLOPs. Time outside every phase is that of the loop itself, for example
of SFT's updates.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from r1jax.accounting import flops
from r1jax.core import io
from r1jax.core.types import ConversationBatch, Rollout, TokenBatch
from r1jax.models.config import ModelConfig
from r1jax.sharding import processes

COST = "cost.json"
# Multiple of a forward pass's FLOPs: the backward pass counts as two of them.
TRAINING = 3


class _Spent:
  """Seconds, tokens and FLOPs since `began` (a `time.perf_counter` value)."""

  def __init__(self) -> None:
    self.began = time.perf_counter()
    self.phases: collections.Counter = collections.Counter()
    self.passes: collections.Counter = collections.Counter()
    self.flops = 0.0


_spent = _Spent()
_fresh = True  # no record has begun yet


def took(name: str, seconds: float) -> None:
  """Adds seconds to a phase."""
  _spent.phases[name] += seconds


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
  """A context manager that adds the seconds of its block to a phase."""
  began = time.perf_counter()
  try:
    yield
  finally:
    took(name, time.perf_counter() - began)


def count(name: str, cfg: ModelConfig, tokens: int, keys: float, *,
          factor: float = 1.0, absorbed: bool = False) -> None:
  """Adds tokens that went through a model.

  Args:
    name: the kind of pass, such as "prefill".
    cfg: the model.
    tokens: the number of tokens.
    keys: positions attended to, summed over the tokens.
    factor: FLOPs as a multiple of a forward pass.
    absorbed: see `flops.forward`.
  """
  _spent.passes[name] += tokens
  if tokens:
    _spent.flops += factor * tokens * flops.forward(
        cfg, keys / tokens, absorbed=absorbed)


def sampled(cfg: ModelConfig, rollout: Rollout) -> None:
  """Counts a rollout: each prompt once, and every sampled token.

  Every process calls it with its own part. The record of the first process
  counts for all, on the assumption that the others' samples are as long.
  """
  prompts_Q = np.array([len(ids) for ids in rollout.prompt_tokens], np.int64)
  lengths_QG = rollout.lengths_QG.astype(np.int64)
  keys_QG = lengths_QG * prompts_Q[:, None] + _triangle(lengths_QG)
  copies = jax.process_count()
  count("prefill", cfg, copies * int(prompts_Q.sum()),
        copies * float(_triangle(prompts_Q).sum()))
  count("sample", cfg, copies * int(lengths_QG.sum()),
        copies * float(keys_QG.sum()), absorbed=cfg.attention == "mla")


def read(name: str, cfg: ModelConfig, batch: TokenBatch | ConversationBatch, *,
         factor: float = 1.0, scalar: bool = False, part: bool = False) -> None:
  """Counts packed rows.

  Args:
    name: the kind of pass, such as "update".
    cfg: the model.
    batch: packed rows, on the host.
    factor: FLOPs as a multiple of a forward pass; `TRAINING` with a gradient.
    scalar: whether the head gives one number, as a reward model's does.
    part: whether the rows are this process's alone; see `sampled`.
  """
  if scalar:
    cfg = dataclasses.replace(cfg, vocab_size=1)
  there = np.asarray(batch.segments_BT) > 0
  keys = float((np.asarray(batch.positions_BT, np.int64)[there] + 1).sum())
  copies = jax.process_count() if part else 1
  count(name, cfg, copies * int(there.sum()), copies * keys, factor=factor)


class Record:
  """The cost of a run in its folder's cost.json, added up over all starts.

  Fields of the file: `chips`, the number of devices; `device`, their kind;
  `seconds` since the start of the process, and by `phases`; `chip_hours`;
  `tokens`, and by `passes`; `flops`. Only the first process writes.
  """

  def __init__(self, folder: str | os.PathLike):
    """Starts counting; a process's first record includes its start-up time.

    Args:
      folder: the run's folder.
    """
    global _fresh, _spent
    self._path = epath.Path(folder) / COST
    self._total: dict[str, Any] = {}
    if processes.is_writer() and self._path.exists():
      self._total = io.read_json(self._path)
    former, _spent = _spent, _Spent()
    if _fresh:
      took("start", _spent.began - former.began)
      _spent.began, _fresh = former.began, False

  def write(self) -> None:
    """Adds what was spent since the last write of any record to the file."""
    global _spent
    spent, _spent = _spent, _Spent()
    if not processes.is_writer():
      return
    seconds = _spent.began - spent.began
    total, chips = self._total, jax.device_count()
    self._total = {
        "chips": chips, "device": jax.devices()[0].device_kind,
        "seconds": total.get("seconds", 0.0) + seconds,
        "chip_hours": total.get("chip_hours", 0.0) + chips * seconds / 3600,
        "phases": _sum(total.get("phases", {}), spent.phases),
        "tokens": total.get("tokens", 0) + sum(spent.passes.values()),
        "passes": _sum(total.get("passes", {}), spent.passes),
        "flops": total.get("flops", 0.0) + spent.flops}
    io.write_json(self._path, self._total)


class Line(NamedTuple):
  """A row of a cost table: a part, its chip-hours, its price."""

  part: str
  hours: float
  dollars: float


def table(hours: Mapping[str, float], price: float, unit: float = 0.0
          ) -> list[Line]:
  """Chip-hours and dollars by part, and their totals.

  The paper's Table 7 (arXiv:2501.12948 v2, B.4.4) rounds every part to
  thousands of hours and prices the rounded hours: `unit=1000`.

  Args:
    hours: chip-hours by part.
    price: dollars per chip-hour.
    unit: hours are first rounded to multiples of it; 0 does not round.
  """
  rounded = {part: unit * round(value / unit) if unit else value
             for part, value in hours.items()}
  rounded["total"] = sum(rounded.values())
  return [Line(part, value, price * value) for part, value in rounded.items()]


def _sum(*parts: Mapping[str, float]) -> dict[str, float]:
  return {name: sum(part.get(name, 0) for part in parts)
          for name in dict.fromkeys(key for part in parts for key in part)}


def _triangle(length: Any) -> Any:
  """1 + 2 + ... + length: keys that a causal sequence's tokens attend to."""
  return length * (length + 1) // 2
