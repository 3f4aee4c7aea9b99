"""Pre-training: next-token prediction on packed documents."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax

from r1jax.accounting import cost
from r1jax.core import config as config_lib
from r1jax.core.config import check
from r1jax.data.streams import pipeline
from r1jax.data.text.tokenizer import Tokenizer, check_fits
from r1jax.report import sinks
from r1jax.sharding import processes
from r1jax.stages.loop.session import Session
from r1jax.stages.weights import Handover
from r1jax.training import metrics as metrics_lib
from r1jax.training import objectives, optimizer, step
from r1jax.training.objectives import LmConfig
from r1jax.training.optimizer import OptimizerConfig
from r1jax.training.state import TrainState
from r1jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
  """Settings of `run`; the defaults train the embedded base."""

  steps: int = 3600  # updates
  rows: int = 16  # rows per update
  row_length: int = 192  # tokens per packed row
  micro_batches: int = 1  # micro-batches per update (gradient accumulation)
  # Step size of the router's selection bias per update (V3: 0.001).
  bias_update_speed: float = 1e-3
  seed: int = 0  # seed of the parameters and of the order of documents
  save_every: int = 500  # updates between checkpoints
  # Services that get the metrics too: wandb, trackio or both.
  sinks: tuple[str, ...] = ()
  lm: LmConfig = LmConfig(mtp=0.1, balance=1e-4)
  optimizer: OptimizerConfig = OptimizerConfig(
      lr=3e-3, weight_decay=0.1, warmup_steps=None, schedule="cosine",
      final_fraction=0.05)

  def __post_init__(self):
    sinks.check_names(self.sinks)
    for name in ("steps", "rows", "row_length", "micro_batches", "save_every"):
      check(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be"
            " positive")
    check(self.seed >= 0, f"seed={self.seed} must not be negative")
    check(self.rows % self.micro_batches == 0,
          f"rows={self.rows} do not divide into"
          f" micro_batches={self.micro_batches}")


def run(cfg: PretrainConfig, initial: Handover, tokenizer: Tokenizer,
        text_at: Callable[[int], str], workdir: str | os.PathLike, *,
        mesh: jax.sharding.Mesh | None = None,
        settings: dict[str, Any] | None = None,
        skip_damaged: bool = False) -> TrainState:
  """Trains, or resumes the run in `workdir`.

  Args:
    cfg: the settings.
    initial: the model and its first parameters; their arrays are moved into the
      run's state.
    tokenizer: its vocabulary must fit the model's.
    text_at: from an index to a document.
    workdir: folder of the run.
    mesh: to train on; None for one device.
    settings: other settings that define the run, for config.json.
    skip_damaged: see `Session`.

  Returns:
    The state after the last update (or the interruption).

  Raises:
    ValueError: the settings do not fit model or mesh, or `workdir` has a run
      with other settings.
  """
  model = initial.model
  cfg = dataclasses.replace(
      cfg, optimizer=optimizer.scheduled(cfg.optimizer, cfg.steps))
  check_fits(tokenizer, model.cfg.vocab_size)
  model.cfg.check_length(cfg.row_length, "row_length")
  step.check_rows(cfg.rows // cfg.micro_batches, cfg.row_length, mesh)
  objective = objectives.lm_objective(model, cfg.lm)
  stream = pipeline.documents(
      text_at, tokenizer, rows=cfg.rows, capacity=cfg.row_length, seed=cfg.seed)
  session = Session(
      workdir, config_lib.to_dict(cfg) | (settings or {}) | {
          "model": config_lib.to_dict(model.cfg),
          "compute": config_lib.to_dict(model.compute)}, tokenizer,
      title="pretrain", total=cfg.steps, save_every=cfg.save_every,
      skip_damaged=skip_damaged,
      shown=("loss/cross_entropy", "loss/mtp"))
  trainer = Trainer(*initial.take(), objective, cfg.optimizer,
                    gamma=cfg.bias_update_speed, seed=cfg.seed, mesh=mesh)
  trainer.state, host = session.restore(trainer.state, {})
  if host:
    stream.set_state(host["stream"])
  with session, step.on_mesh(mesh):
    for number in range(session.step + 1, cfg.steps + 1):
      batch = next(stream)
      metrics = trainer.update(batch, cfg.micro_batches)
      cost.read("train", model.cfg, batch, factor=cost.TRAINING)
      stop = session.finish(
          number, functools.partial(metrics_lib.floats, metrics),
          batch if processes.is_writer() else None, lambda: trainer.state,
          lambda: {"stream": stream.get_state()})
      if stop:
        break
  return trainer.state
