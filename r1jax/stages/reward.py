"""Trains a reward model: helpful from pairs, safety from labelled answers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from r1jax.accounting import cost
from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check
from r1jax.data.streams import preference as data_lib
from r1jax.data.streams.preference import PAIRWISE, POINTWISE, Example, Packed
from r1jax.data.text.tokenizer import Tokenizer, check_fits
from r1jax.evals import preference as evals
from r1jax.report import reward_figure, sinks, writer
from r1jax.sharding import processes, rules
from r1jax.stages import reward_weights
from r1jax.stages.loop.session import Session
from r1jax.stages.scoring import Scoring
from r1jax.stages.weights import Handover, Weights
from r1jax.training import metrics as metrics_lib
from r1jax.training import optimizer, preference, step
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig
from r1jax.training.trainer import Trainer

FIGURE = "reward.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
  """Settings of `run`; the defaults fit the embedded base.

  R1 (arXiv:2501.12948, section 3.1) uses one epoch, 256 pairs an update, a
  learning rate of 6e-6 and at most 8,192 tokens for both models. It does not
  give the loss, the schedule or the initial weights; open implementations start
  from the SFT model.
  """

  loss: str = PAIRWISE  # pairwise (helpful model), or pointwise (safety model)
  epochs: int = 1  # passes over the data (R1: 1)
  steps: int = 0  # updates; 0: as many as `epochs` takes
  rows: int = 32  # packed rows per update; the sides of a pair are in two rows
  row_length: int = 256  # tokens per packed row (R1: at most 8192)
  micro_batches: int = 1  # micro-batches per update (gradient accumulation)
  # Factor of the margins in the data that a pair's scores must differ by
  # (pairwise).
  margin: float = 0.0
  # Factor of the loss (sum of a pair's scores)^2, which centres scores at 0
  # (pairwise); 0: off.
  centre: float = 0.01
  # Step size of the router's selection bias per update (V3: 0.001 in
  # pre-training).
  bias_update_speed: float = 0.0
  seed: int = 0  # seed of the data's order, of the head and of a LoRA adapter
  save_every: int = 100  # updates between checkpoints
  eval_every: int = 100  # updates between evaluations; 0: never
  # Services that get the metrics too: wandb, trackio or both.
  sinks: tuple[str, ...] = ()
  validation: float = 0.1  # share of the prompts of --reward_data to hold out
  # Prompt template: auto (the tokenizer's own chat template, else plain),
  # plain, chat, r1-zero, chat-think, r1 or file:PATH.
  template: str = data_lib.AUTO
  optimizer: OptimizerConfig = OptimizerConfig(
      lr=3e-4, schedule="cosine", final_fraction=0.1)
  lora: LoraConfig = LoraConfig()

  def __post_init__(self):
    sinks.check_names(self.sinks)
    check(self.loss in (PAIRWISE, POINTWISE),
          f"loss={self.loss!r}: choose {PAIRWISE} or {POINTWISE}")
    for name in ("rows", "row_length", "micro_batches", "save_every"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
    for name in ("epochs", "steps", "eval_every", "bias_update_speed",
                 "seed", "margin", "centre"):
      check(getattr(self, name) >= 0,
            f"{name}={getattr(self, name)} must not be negative")
    check(self.epochs > 0 or self.steps > 0,
          "epochs=0 and steps=0: nothing would be trained")
    check(self.rows % (self.micro_batches * self.sides) == 0,
          f"rows={self.rows} do not divide into"
          f" micro_batches={self.micro_batches} of whole pairs of rows")
    check(0 < self.validation < 1, f"validation={self.validation}: the blank"
          " score is set from held-out scores; give a share between 0 and 1")

  @property
  def sides(self) -> int:
    """Conversations per example."""
    return 2 if self.loss == PAIRWISE else 1

  def packed(self, examples: Sequence[Example]) -> Packed:
    """The examples, packed by this config."""
    return Packed(examples, self.rows // self.sides, self.row_length, self.seed,
                  None if self.steps else self.epochs, sides=self.sides)

  def scheduled(self, data: Packed) -> PreferenceConfig:
    """This config with `steps` and the schedule's length filled in."""
    steps = self.steps or data.steps()
    return dataclasses.replace(
        self, steps=steps,
        optimizer=optimizer.scheduled(self.optimizer, steps))


def run(cfg: PreferenceConfig, initial: Handover, tokenizer: Tokenizer,
        examples: Sequence[Example], held_out: Sequence[Example],
        workdir: str | os.PathLike, *, mesh: jax.sharding.Mesh | None = None,
        settings: dict[str, Any] | None = None,
        skip_damaged: bool = False,
        remedies: Mapping[str, str] | None = None) -> Weights:
  """Trains, or resumes the run in `workdir`.

  At the end it writes `reward.json`, with the validation and the score of blank
  answers that follows from it, and a figure.

  Args:
    cfg: the settings, with `template` as it was read.
    initial: the model (a `ScalarModel`) and its first parameters; their arrays
      are moved into the run's state.
    tokenizer: the examples' tokenizer, which the run stores.
    examples: from `data.streams.preference.load`, each at most a row long.
    held_out: examples for validation, at least one.
    workdir: folder of the run.
    mesh: to train on; None for one device.
    settings: other settings that define the run, for config.json.
    skip_damaged, remedies: see `Session`.

  Returns:
    The model with its parameters after the last update (or the interruption),
    with an adapter joined to them.

  Raises:
    ValueError: data, settings, model and mesh do not fit together, or `workdir`
      has a run with other settings.
  """
  model = initial.model
  check_fits(tokenizer, model.cfg.vocab_size)
  _check(cfg, model, examples, held_out, mesh)
  data = cfg.packed(examples)
  cfg = cfg.scheduled(data)
  objective = (preference.pointwise_objective(model) if cfg.sides == 1
               else preference.pairwise_objective(model, cfg.centre))
  session = Session(
      workdir, config_lib.to_dict(cfg) | (settings or {}) | {
          "model": config_lib.to_dict(model.cfg),
          "compute": config_lib.to_dict(model.compute),
          "head": reward_weights.HEAD}, tokenizer,
      title="reward", total=cfg.steps, save_every=cfg.save_every,
      best_metric="eval/loss", best_mode="min", remedies=remedies,
      skip_damaged=skip_damaged, shown=("accuracy", "eval/accuracy"))
  trainer = Trainer(*initial.take(), objective, cfg.optimizer,
                    gamma=cfg.bias_update_speed, adapter=cfg.lora,
                    seed=cfg.seed, mesh=mesh)
  trainer.state, _ = session.restore(trainer.state, {})
  scoring = Scoring(model, cfg.rows // cfg.micro_batches, cfg.row_length, mesh)
  rate = optimizer.learning_rate(cfg.optimizer)

  def measure():
    return Measured(cfg, held_out, lambda ids: scoring(
        trainer.params, trainer.state.router_bias_LE, ids))

  with session, step.on_mesh(mesh):
    if session.step < cfg.steps:
      _reopen(session.workdir)
    batches = data.stream(session.step, cfg.steps)
    for number in range(session.step + 1, cfg.steps + 1):
      batch = next(batches)
      metrics = trainer.update(batch, cfg.micro_batches)
      cost.read("train", model.cfg, batch, factor=cost.TRAINING, scalar=True)
      with cost.phase("evaluate"):
        measured = measure().metrics() if due(cfg, number) else {}

      def numbers(number=number, metrics=metrics, measured=measured):
        return metrics_lib.floats(metrics) | measured | {
            "learning_rate": float(rate(number - 1))}

      # Evaluations are read now, because they decide on the best checkpoint.
      if session.finish(number, numbers() if measured else numbers,
                        batch if processes.is_writer() else None,
                        lambda: trainer.state, dict):
        break
    if session.step == cfg.steps and not session.stopped:
      _conclude(cfg, measure, workdir)
    return Weights(model, trainer.params, trainer.state.router_bias_LE)


def _reopen(workdir: epath.Path) -> None:
  """A finished run that is made longer is not finished."""
  processes.from_writer(
      lambda: (workdir / reward_weights.ABOUT).unlink(missing_ok=True))


def finished(workdir: str | os.PathLike) -> bool:
  """Whether the run in `workdir` is finished."""
  return processes.from_writer(
      lambda: (epath.Path(workdir) / reward_weights.ABOUT).exists())


def due(cfg: PreferenceConfig, number: int) -> bool:
  """Whether to evaluate after `number` updates."""
  return cfg.eval_every > 0 and (
      number == cfg.steps or number % cfg.eval_every == 0)


class Measured:
  """Held-out examples with their scores."""

  def __init__(self, cfg: PreferenceConfig, examples: Sequence[Example],
               score: Callable[[Sequence[np.ndarray]], np.ndarray]):
    """Scores the examples.

    Args:
      cfg: the settings.
      examples: held-out examples.
      score: from ids of conversations to their scores.
    """
    self.cfg, self.examples = cfg, examples
    scores = score([ids for e in examples for ids in e.sides])
    self.scores = scores.astype(np.float64).reshape(len(examples), cfg.sides)
    self.labels = np.array([e.label for e in examples])
    self.lengths = np.array([e.answers for e in examples])

  def evaluation(self) -> dict[str, Any]:
    """The metrics of `evals.preference`."""
    sources = [e.source for e in self.examples]
    if self.cfg.sides == 2:
      return evals.pairs(*self.scores.T, self.lengths.tolist(), sources)
    return evals.answers(
        self.scores[:, 0], self.labels, self.lengths[:, 0], sources)

  def split(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores of good answers, of bad ones, tokens of both in this order)."""
    if self.cfg.sides == 2:
      return self.scores[:, 0], self.scores[:, 1], self.lengths.T.reshape(-1)
    good, scores = self.labels > 0.5, self.scores[:, 0]
    lengths = self.lengths[:, 0]
    return scores[good], scores[~good], np.concatenate(
        [lengths[good], lengths[~good]])

  def blank(self) -> float:
    """`evals.preference.blank` of the bad answers, or of all if none is bad."""
    _, bad, _ = self.split()
    return evals.blank(bad if len(bad) else self.scores.reshape(-1))

  def loss(self) -> float:
    """Mean loss over examples, without the centring term."""
    if self.cfg.sides == 2:
      lead = self.scores[:, 0] - self.scores[:, 1] - self.labels
      return float(np.logaddexp(0, -lead).mean())
    scores = self.scores[:, 0]
    return float((np.logaddexp(0, scores) - self.labels * scores).mean())

  def metrics(self) -> dict[str, float]:
    """Metrics to log."""
    evaluation = self.evaluation()
    numbers = {f"eval/{name}": evaluation.get(name) for name in (
        "accuracy", "length_correlation", "auroc", "ece")}
    return {"eval/loss": self.loss()} | {
        name: value for name, value in numbers.items() if value is not None}


def _conclude(cfg: PreferenceConfig, measure: Callable[[], Measured],
              workdir: str | os.PathLike) -> None:
  """Writes reward.json and the figure of a finished model, unless they exist.
  """
  if finished(workdir):
    return
  measured = measure()
  evaluation, blank = measured.evaluation(), measured.blank()

  def write() -> None:
    folder = epath.Path(workdir)
    good, bad, lengths = measured.split()
    reward_figure.draw(
        evaluation, good, bad, lengths, folder / FIGURE, blank=blank)
    io.write_json(folder / reward_weights.ABOUT, {
        "loss": cfg.loss, "template": cfg.template, "blank": blank,
        "row_length": cfg.row_length,
        "validation": evaluation | {"loss": measured.loss()}})

  processes.from_writer(write)


def _check(cfg, model, examples, held_out, mesh) -> None:
  model.cfg.check_length(cfg.row_length, "row_length")
  micro = cfg.rows // cfg.micro_batches
  step.check_rows(micro, cfg.row_length, mesh)
  shards = 1 if mesh is None else rules.batch_shards(mesh)
  check(micro % (shards * cfg.sides) == 0, f"{micro} rows of a micro-batch do"
        f" not divide over {shards} devices in whole pairs of rows; make rows a"
        f" multiple of {shards * cfg.sides * cfg.micro_batches}")
  for name, part in (("to train on", examples), ("held out", held_out)):
    check(len(part) > 0, f"no examples {name}: give more data, or --held_out"
          " of its own")
    sides = {len(e.sides) for e in part}
    check(sides == {cfg.sides}, f"loss={cfg.loss!r} needs examples with"
          f" {cfg.sides} conversations, not {sides}; load the data with the"
          " same loss")


def summary(workdir: str | os.PathLike) -> str:
  """The validation of a finished run in words; "" if it is not finished."""
  if not finished(workdir):
    return ""
  about = io.read_json(epath.Path(workdir) / reward_weights.ABOUT)
  validation = about["validation"]
  said = [f"held out: {validation['accuracy']:.1%} of {validation['count']}"
          f" right ({validation['accuracy_low']:.1%} to"
          f" {validation['accuracy_high']:.1%})"]
  for name in ("auroc", "ece", "length_correlation"):
    if validation.get(name) is not None:
      said.append(f"{name} {validation[name]:.3f}")
  rows = len(writer.read(workdir))
  return f"{', '.join(said)}; blank {about['blank']:.3f}, after {rows} updates"
