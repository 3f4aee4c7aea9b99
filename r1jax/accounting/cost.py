"""What runs cost: chips, seconds by phase, tokens, operations, dollars.

  record = cost.Record(workdir)        # begins
  with cost.phase("rollout"):
    rollout = engine.generate(...)
  cost.sampled(model.cfg, rollout)
  record.write()                       # WORKDIR/cost.json

A process has one tally, as it has one clock: whatever counts here need not know
which run it is part of, and `Record.write` takes what came since the last one.
What came before a record began is nobody's, but for the time that the process
took to start. Over resumes a record adds up, but for what was spent between its
last write and a kill.
Operations are counted as `accounting.flops` does: without the MTP module, and
an adapter as all parameters; held-out losses of SFT are time alone. Time that
no phase has is the loop's own, as that of SFT's updates.
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
# Of a forward pass; the backward one counts twice as much.
TRAINING = 3


class _Spent:
  """What was spent since `began`, in seconds of `time.perf_counter`."""

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
  """Adds the time of its block to a phase."""
  began = time.perf_counter()
  try:
    yield
  finally:
    took(name, time.perf_counter() - began)


def count(name: str, cfg: ModelConfig, tokens: int, keys: float, *,
          factor: float = 1.0, absorbed: bool = False) -> None:
  """Adds tokens that went through a model.

  Args:
    name: of the kind of pass.
    cfg: of the model.
    tokens: how many.
    keys: positions that they attended to, summed over them.
    factor: of the operations of a forward pass.
    absorbed: see `flops.forward`.
  """
  _spent.passes[name] += tokens
  if tokens:
    _spent.flops += factor * tokens * flops.forward(
        cfg, keys / tokens, absorbed=absorbed)


def sampled(cfg: ModelConfig, rollout: Rollout) -> None:
  """Counts a rollout: each prompt once, and every token that was drawn.

  Of several processes each calls it with its part, and the first counts for
  all: as if the others' samples were as long as its own.
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
    name: of the kind of pass.
    cfg: of the model.
    batch: rows, on the host.
    factor: of the operations of a forward pass, `TRAINING` with its gradient.
    scalar: whether the head gives one number, as a reward model's.
    part: whether the rows are those of this process alone; see `sampled`.
  """
  if scalar:
    cfg = dataclasses.replace(cfg, vocab_size=1)
  there = np.asarray(batch.segments_BT) > 0
  keys = float((np.asarray(batch.positions_BT, np.int64)[there] + 1).sum())
  copies = jax.process_count() if part else 1
  count(name, cfg, copies * int(there.sum()), copies * keys, factor=factor)


class Record:
  """What a run has cost, kept in its folder over all starts.

  The file: `chips` and their kind, `device`; `seconds` from the start of the
  process on, and of them those of `phases`; `chip_hours`; `tokens`, and of them
  those of the `passes`; `flops`. The first process writes.
  """

  def __init__(self, folder: str | os.PathLike):
    """Begins; the first of a process with its start, as a phase."""
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
    """Adds what was spent since the last call of any record."""
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
  """A part of a table of costs."""

  part: str
  hours: float
  dollars: float


def table(hours: Mapping[str, float], price: float, unit: float = 0.0
          ) -> list[Line]:
  """Chip-hours by part, priced, and their sum.

  The paper's Table 7 (arXiv:2501.12948 v2, B.4.4) rounds every part to
  thousands of hours and prices what is printed: `unit=1000`.

  Args:
    hours: of each part.
    price: dollars of a chip-hour.
    unit: that hours are rounded to first; 0 leaves them.
  """
  rounded = {part: unit * round(value / unit) if unit else value
             for part, value in hours.items()}
  rounded["total"] = sum(rounded.values())
  return [Line(part, value, price * value) for part, value in rounded.items()]


def _sum(*parts: Mapping[str, float]) -> dict[str, float]:
  return {name: sum(part.get(name, 0) for part in parts)
          for name in dict.fromkeys(key for part in parts for key in part)}


def _triangle(length: Any) -> Any:
  """1 + 2 + ... + length: keys of the tokens of a causal sequence."""
  return length * (length + 1) // 2
