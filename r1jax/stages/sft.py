"""Supervised fine-tuning on packed dialogues, with the loss on answers only."""

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
  5e-6. The default batch fits the embedded base; R1's has 128 rows of 32,768
  tokens. R1's packing, MTP loss and router bias in SFT are not published.
  """

  epochs: int = 2  # passes over the data (R1: 2)
  steps: int = 0  # updates; 0: as many as `epochs` takes
  rows: int = 16  # packed rows per update (R1: 128)
  row_length: int = 256  # tokens per packed row (R1: 32768)
  micro_batches: int = 1  # micro-batches per update (gradient accumulation)
  # Step size of the router's selection bias per update (V3: 0.001 in
  # pre-training).
  bias_update_speed: float = 0.0
  seed: int = 0  # seed of the data's order and of a LoRA adapter
  save_every: int = 100  # updates between checkpoints
  eval_every: int = 100  # updates between evaluations; 0: never
  # Services that get the metrics too: wandb, trackio or both.
  sinks: tuple[str, ...] = ()
  # Prompt template: r1-zero, plain, chat, chat-think, r1 or file:PATH.
  template: str = "r1-zero"
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
    """The examples, packed by this config."""
    return Packed(examples, self.rows, self.row_length, self.seed,
                  None if self.steps else self.epochs)

  def scheduled(self, data: Packed) -> SftConfig:
    """This config with `steps` and the schedule's length filled in."""
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
  """Trains, or resumes the run in `workdir`.

  Args:
    cfg: the settings.
    initial: the model and its first parameters; their arrays are moved into the
      run's state.
    tokenizer: the examples' tokenizer, which the run stores.
    examples: from `sft.load` or `sft_stream.load`, each at most a row long.
    workdir: folder of the run.
    held_out: examples whose loss is logged as `eval/cross_entropy`.
    mesh: to train on; None for one device.
    settings: other settings that define the run, for config.json.
    workers: number of processes that prepare batches; 0: a thread does.
    skip_damaged, remedies: see `Session`.

  Returns:
    The model with its last parameters, an adapter joined to them.

  Raises:
    ValueError: settings that do not fit model, mesh or the run in `workdir`.
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
  # Metrics of an update that was made before its evaluation was interrupted.
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

      # Evaluations are read now, because they decide on the best checkpoint.
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
  """A jitted (params, router_bias_LE, batch [B, T]) -> the objective's terms.
  """
  def loss(params, bias_LE, batch):
    terms = objective.evaluate(params, bias_LE, batch).terms
    return Metrics({f"eval/{name}": term for name, term in terms.items()}, {})

  return jax.jit(loss)


def heldout_loss(
    loss: Callable[..., Metrics], cfg: SftConfig, examples: Sequence[Example],
    mesh: jax.sharding.Mesh | None, params: Any, bias_LE: jax.Array, *,
    stop: Callable[[], bool] = lambda: False) -> list[Metrics] | None:
  """The losses of all examples by batch, as `eval/...`, still on the device.

  None if `stop()` became true between two batches.
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
