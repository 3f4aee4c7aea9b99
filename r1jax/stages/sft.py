"""Supervised fine-tuning: the loss on answers only, on packed dialogues."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from r1jax.accounting import cost
from r1jax.core import config as config_lib
from r1jax.core.config import check
from r1jax.data.streams.sft import Example, Packed
from r1jax.data.text.tokenizer import Tokenizer, check_fits
from r1jax.report import sinks, writer
from r1jax.sharding import processes
from r1jax.stages.loop.session import Session
from r1jax.stages.weights import Handover, Weights
from r1jax.training import metrics as metrics_lib
from r1jax.training import objectives, optimizer, step
from r1jax.training.lora import LoraConfig
from r1jax.training.metrics import Metrics
from r1jax.training.objectives import LmConfig, Objective
from r1jax.training.optimizer import OptimizerConfig
from r1jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftConfig:
  """Settings of `run`.

  The schedule is R1's (arXiv:2501.12948, B.4): 2 epochs, cosine from 5e-5 to
  5e-6. Its 128 rows of 32,768 tokens are made smaller to fit the embedded base.
  What R1 does about packing, MTP and the router bias here is not published.
  """

  epochs: int = 2  # passes over the data
  steps: int = 0  # updates, instead of epochs
  rows: int = 16  # rows per update
  row_length: int = 256  # tokens per row
  micro_batches: int = 1  # parts that an update's rows are done in
  # Step of the router bias (V3: 0.001 in pre-training).
  bias_update_speed: float = 0.0
  seed: int = 0  # of the order of the data and of a LoRA adapter
  save_every: int = 100  # updates between checkpoints
  eval_every: int = 100  # updates between evaluations; 0 is never
  # Who shows the metrics beside TensorBoard: wandb, trackio or both.
  sinks: tuple[str, ...] = ()
  template: str = "r1-zero"  # or plain, chat, chat-think, r1, file:PATH
  lm: LmConfig = LmConfig()
  optimizer: OptimizerConfig = OptimizerConfig(
      lr=5e-5, schedule="cosine", final_fraction=0.1)
  lora: LoraConfig = LoraConfig()

  def __post_init__(self):
    sinks.check_names(self.sinks)
    for name in ("rows", "row_length", "micro_batches", "save_every"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
    for name in ("epochs", "steps", "eval_every", "bias_update_speed",
                 "seed"):
      check(getattr(self, name) >= 0,
            f"{name}={getattr(self, name)} must not be negative")
    check(self.epochs > 0 or self.steps > 0,
          "epochs=0 and steps=0: nothing would be trained")
    check(self.rows % self.micro_batches == 0,
          f"rows={self.rows} do not divide into"
          f" micro_batches={self.micro_batches}")

  def packed(self, examples: Sequence[Example]) -> Packed:
    """The examples as this config packs them."""
    return Packed(examples, self.rows, self.row_length, self.seed,
                  None if self.steps else self.epochs)

  def scheduled(self, data: Packed) -> SftConfig:
    """This config with its `steps`, and the length of its schedule."""
    steps = self.steps or data.steps()
    return dataclasses.replace(
        self, steps=steps,
        optimizer=optimizer.scheduled(self.optimizer, steps))


def run(cfg: SftConfig, initial: Handover, tokenizer: Tokenizer,
        examples: Sequence[Example], workdir: str | os.PathLike, *,
        held_out: Sequence[Example] | None = None,
        mesh: jax.sharding.Mesh | None = None,
        settings: dict[str, Any] | None = None, workers: int = 0,
        skip_damaged: bool = False,
        remedies: Mapping[str, str] | None = None) -> Weights:
  """Trains, or goes on where `workdir` stopped.

  Args:
    cfg: the settings.
    initial: model and first parameters. The run takes them: their arrays become
      its own.
    tokenizer: that made the examples; the run keeps it.
    examples: from `data.streams.sft.load` or `sft_stream.load`, each at most a
      row long.
    workdir: folder of the run.
    held_out: examples whose loss is logged, as `eval/cross_entropy`.
    mesh: to train on; None for one device.
    settings: what else defines the run, for config.json.
    workers: processes that make batches; 0 makes them in a thread.
    skip_damaged, remedies: see `Session`.

  Returns:
    The model with its parameters after the last update (or the interruption),
    an adapter joined to them.
  """
  model = initial.model
  check_fits(tokenizer, model.cfg.vocab_size)
  model.cfg.check_length(cfg.row_length, "row_length")
  step.check_rows(cfg.rows // cfg.micro_batches, cfg.row_length, mesh)
  data = cfg.packed(examples)
  cfg = cfg.scheduled(data)
  objective = objectives.lm_objective(model, cfg.lm)
  session = Session(
      workdir, config_lib.to_dict(cfg) | (settings or {}) | {
          "model": config_lib.to_dict(model.cfg),
          "compute": config_lib.to_dict(model.compute)}, tokenizer,
      title="SFT", total=cfg.steps, save_every=cfg.save_every,
      skip_damaged=skip_damaged, best_metric="eval/cross_entropy",
      best_mode="min", remedies=remedies,
      shown=("loss/cross_entropy", "eval/cross_entropy"))
  trainer = Trainer(*initial.take(), objective, cfg.optimizer,
                    gamma=cfg.bias_update_speed, adapter=cfg.lora,
                    seed=cfg.seed, mesh=mesh)
  trainer.state, host = session.restore(trainer.state, {})
  # Of an update whose evaluation was interrupted: it is made already.
  made = None if session.inside is None else metrics_lib.from_json(host["made"])
  evaluate = functools.partial(
      heldout_loss, make_loss(objective), cfg, held_out or [], mesh,
      stop=session.interrupted)
  rate = optimizer.learning_rate(cfg.optimizer)
  with session, step.on_mesh(mesh), contextlib.closing(
      data.stream(session.step, cfg.steps, workers)) as batches:
    for number in range(session.step + 1, cfg.steps + 1):
      batch = next(batches)
      metrics = made or trainer.update(batch, cfg.micro_batches)
      if made is None:
        cost.read("train", model.cfg, batch, factor=cost.TRAINING)
      made, measured = None, []
      if held_out and due(cfg, number):
        with cost.phase("evaluate"):
          measured = evaluate(trainer.params, trainer.state.router_bias_LE)
      if measured is None:
        session.save_inside(
            number - 1, trainer.state, {"made": metrics_lib.to_json(metrics)},
            after="the update, inside the evaluation")
        break

      def numbers(number=number, metrics=metrics, measured=measured):
        return metrics_lib.floats(metrics) | metrics_lib.floats(*measured) | {
            "learning_rate": float(rate(number - 1))}

      # A number that may make it the best checkpoint is looked at now.
      if session.finish(number, numbers() if measured else numbers,
                        batch if processes.is_writer() else None,
                        lambda: trainer.state, dict):
        break
    return Weights(model, trainer.params, trainer.state.router_bias_LE)


def finished(workdir: str | os.PathLike, cfg: SftConfig,
             examples: Sequence[Example]) -> bool:
  """Whether the run in `workdir` has done all its updates."""
  rows = processes.from_writer(lambda: writer.read(workdir)[-1:])
  return bool(rows) and (
      rows[-1]["step"] >= cfg.scheduled(cfg.packed(examples)).steps)


def due(cfg: SftConfig, number: int) -> bool:
  """Whether to evaluate after `number` updates."""
  return cfg.eval_every > 0 and (
      number == cfg.steps or number % cfg.eval_every == 0)


def make_loss(objective: Objective) -> Callable[..., Metrics]:
  """Compiled (params, router_bias_LE, rows [B, T]) -> the objective's terms."""
  def loss(params, bias_LE, batch):
    terms = objective.evaluate(params, bias_LE, batch).terms
    return Metrics({f"eval/{name}": term for name, term in terms.items()}, {})

  return jax.jit(loss)


def heldout_loss(
    loss: Callable[..., Metrics], cfg: SftConfig, examples: Sequence[Example],
    mesh: jax.sharding.Mesh | None, params: Any, bias_LE: jax.Array, *,
    stop: Callable[[], bool] = lambda: False) -> list[Metrics] | None:
  """The losses of all examples in parts, as `eval/...`, still on the device.

  None if `stop` says so between two of them.
  """
  size = cfg.rows // cfg.micro_batches
  data = Packed(examples, size, cfg.row_length, epochs=1)
  parts = []
  for number in range(data.steps()):
    if stop():
      return None
    batch = step.place(data.batch(number), mesh)
    parts.append(loss(params, bias_LE, batch))
    # Dozens of queued programs with collectives can hang the CPU backend.
    jax.block_until_ready(parts[-1])
  return parts
