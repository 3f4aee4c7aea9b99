"""Compares training in float32, bfloat16 and bfloat16 without masters.

  python -m experiments.benchmarks.precision --workdir=runs/precision --json

R1-Zero from --init with the quickstart's settings, but smaller steps and the
learning rates of --runs, in four forms that differ only in precision:

  float32      everything in float32
  bfloat16     computation in bfloat16, float32 master weights, as with
               --compute.dtype=bfloat16
  stochastic   bfloat16 parameters without masters, updates rounded
               stochastically, as with --optimizer.rounding=stochastic
  nearest      bfloat16 parameters without masters, updates rounded to nearest;
               the stages refuse this, so the benchmark itself rounds the
               parameters after every update

Then supervised fine-tuning of a LoRA adapter at lr 1e-5 on worked answers of
the embedded task, with a float32 and with a bfloat16 base.

Each run has a folder of its own; finished ones are read back, an interrupted
one resumes. WORKDIR gets precision.json and precision.png, with the finished
runs; --json prints the figures without the curves. For RL (rewards and gaps are
means over the last tenth of the updates):

  form, lr, updates       which run
  moved                   |p - p0| / |p0| at the end, of the stored parameters p
  moved_share             share of the stored parameters that have changed
  computing_share         share of them whose bfloat16 rounding has changed
  accuracy, format, combined   rewards of the training samples
  gap, gap_max            difference between the log-probabilities of sampler
                          and trainer: mean and maximum over an update's tokens

and for SFT, in nats per token: loss (over the batches of the last tenth;
loss_first: the first batch, before any update) and held_out (at the end;
held_out_first: after a twentieth of the updates). `*_apart` is
|bfloat16 - float32| / float32.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.data.sources import arithmetic
from r1jax.data.streams import sft as data_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.models.compute import Compute
from r1jax.report import figures, tables, writer
from r1jax.stages import grpo, judging, sft, tasks, weights, zero
from r1jax.stages import learner as learner_lib
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.sft import SftConfig
from r1jax.stages.weights import Handover
from r1jax.training import metrics as metrics_lib
from r1jax.training import state as state_lib
from r1jax.training.lora import LoraConfig
from r1jax.training.metrics import Metrics
from r1jax.training.optimizer import OptimizerConfig

from .. import common, quickstart, start
from .output import JSON

RUNS = flags.DEFINE_list(
    "runs", ["3e-6:200:float32+bfloat16+stochastic+nearest",
             "2e-4:150:float32+bfloat16"],
    "Runs of RL, each as LR:UPDATES:FORM+FORM, with forms among float32,"
    " bfloat16, stochastic and nearest.")
QUESTIONS = flags.DEFINE_integer(
    "questions", 4, "Questions of an RL update.")
SAMPLES = flags.DEFINE_integer("samples", 8, "Samples of a question.")
SFT_UPDATES = flags.DEFINE_integer(
    "sft_updates", 400, "Updates of the LoRA adapter.", lower_bound=1)
flags.set_default(quickstart.WORKDIR, "runs/precision")


class Form(NamedTuple):
  """Precision of a run.

  Attributes:
    compute: dtypes.
    rounding: how the optimizer rounds bfloat16 parameters.
    nearest: whether to round the parameters to bfloat16 after every update.
  """

  compute: Compute
  rounding: str = "nearest"
  nearest: bool = False


FORMS = {
    "float32": Form(Compute()),
    "bfloat16": Form(Compute(dtype="bfloat16")),
    "stochastic": Form(
        Compute(dtype="bfloat16", param_dtype="bfloat16"), "stochastic"),
    "nearest": Form(Compute(dtype="bfloat16"), nearest=True),
}
# The base is also stored in bfloat16: it is not trained and needs no masters.
SFT_FORMS = {
    "float32": Compute(),
    "bfloat16": Compute(dtype="bfloat16", param_dtype="bfloat16")}
TAIL = 0.1  # share of the updates over which final values are averaged


class Run(NamedTuple):
  """One run of RL."""

  form: str
  lr: float
  updates: int

  def folder(self, top: epath.Path) -> epath.Path:
    return top / f"lr_{self.lr:g}" / self.form


class Learner(learner_lib.Learner):
  """A learner that logs how far it has moved, and may round to nearest.

  Attributes:
    nearest: see `Form`.
  """

  nearest = False

  def __init__(self, *args: Any):
    super().__init__(*args)
    # Taken before a checkpoint is restored, so that a resumed run also measures
    # from the start.
    self._first = jax.tree.map(jnp.copy, self._trained())
    self._measure = jax.jit(movement)

  def _trained(self) -> Any:
    return state_lib.trained(self.state.params, ("mtp",))

  def update(self, micros: learner_lib.Micros) -> Metrics:
    metrics = super().update(micros)
    if self.nearest:
      self.state = self.state.replace(
          params=jax.tree.map(_round, self.state.params))
    moved = self._measure(self._trained(), self._first)
    return Metrics(metrics.means | metrics_lib.single(**moved), metrics.maxima)


def _round(x: jax.Array) -> jax.Array:
  """Rounds to the nearest bfloat16 number, as float32."""
  # XLA may remove a cast to bfloat16 and back when it fuses.
  return jax.lax.reduce_precision(x.astype(jnp.float32), 8, 7)


def movement(params: Any, first: Any) -> dict[str, jax.Array]:
  """How far parameters are from the first ones; the module defines the names.

  Args:
    params: a tree of arrays of any dtype.
    first: the initial tree, same dtypes.
  """
  now, then = jax.tree.leaves(params), jax.tree.leaves(first)

  def total(f):
    return sum(jnp.sum(f(a, b).astype(jnp.float32))
               for a, b in zip(now, then, strict=True))

  size = sum(x.size for x in then)
  square = total(lambda a, b: (a.astype(jnp.float32) - b)**2)
  return {
      "moved/norm": jnp.sqrt(square / total(
          lambda _, b: b.astype(jnp.float32)**2)),
      "moved/share": total(lambda a, b: a != b) / size,
      "moved/computing": total(lambda a, b: _round(a) != _round(b)) / size}


def config(run: Run, seed: int, questions: int, samples: int) -> GrpoConfig:
  """The quickstart's config with smaller steps, `run`'s lr and no warm-up."""
  return dataclasses.replace(
      zero.config(seed, run.updates), questions=questions,
      samples=samples, micro_rows=4, eval_every=0,
      optimizer=OptimizerConfig(lr=run.lr, rounding=FORMS[run.form].rounding))


def reinforce(run: Run, cfg: GrpoConfig, init: str, folder: epath.Path
              ) -> bool:
  """Runs or resumes R1-Zero in one form; returns whether it is finished."""
  form = FORMS[run.form]
  base, tokenizer = weights.with_tokenizer(init, form.compute)
  questions = tasks.joined(tasks.load("arith", "train"))
  # No setting of the stage measures movement or rounds to nearest.
  learner = type("Learner", (Learner,), {"nearest": form.nearest})
  with (judging.judge(tokenizer, cfg.template) as judge,
        mock.patch.object(learner_lib, "Learner", learner)):
    grpo.run(cfg, Handover(base), judge, questions, folder,
             settings={"init": init, "form": run.form})
  return grpo.finished(folder, cfg)


def ending(rows: figures.Rows, name: str) -> float:
  """The mean of a metric over the last tenth of the rows."""
  values = [row[name] for row in rows]
  return float(np.mean(values[-max(1, round(TAIL * len(values))):]))


NAMES = {
    "moved": "moved/norm", "moved_share": "moved/share",
    "computing_share": "moved/computing", "accuracy": "reward/accuracy",
    "format": "reward/format", "combined": "reward/combined",
    "gap": "rollout/logp_diff", "gap_max": "rollout/logp_diff_max"}


def result(run: Run, folder: epath.Path) -> dict[str, Any]:
  """Results of a finished RL run; the module describes the names."""
  rows = writer.read(folder)
  summary = run._asdict() | {
      name: ending(rows, metric) for name, metric in NAMES.items()}
  for name in ("moved", "moved_share", "computing_share"):
    summary[name] = rows[-1][NAMES[name]]
  return summary | {"curve": [{"step": row["step"]} | {
      name: row[metric] for name, metric in NAMES.items()} for row in rows]}


def dialogues(split: str, count: int, tokenizer: Tokenizer, path: epath.Path,
              cfg: SftConfig) -> list[data_lib.Example]:
  """Questions of the embedded task, answered in words new to the base.

  They are written to `path` and read back like a user's data.
  """
  def answer(problem):
    first, *rest = arithmetic.step_list(problem.start, problem.deltas)
    then = "".join(f" Then {step}." for step in rest)
    return (f"<think> First {first}.{then} So it is {problem.answer}. </think>"
            f" <answer> {problem.answer} </answer>")

  lines = [json.dumps(
      {"prompt": problem.question, "completion": answer(problem)})
           for problem in arithmetic.examples(split, count)]
  io.write_bytes(path, ("\n".join(lines) + "\n").encode())
  return data_lib.load(
      [path], tokenizer, cfg.template, cfg.row_length).examples


def sft_config(seed: int, updates: int) -> SftConfig:
  """SFT of a LoRA adapter of rank 16 and alpha 64 at a constant lr of 1e-5."""
  return SftConfig(
      steps=updates, rows=8, seed=seed, eval_every=max(1, updates // 20),
      save_every=200, optimizer=OptimizerConfig(lr=1e-5),
      lora=LoraConfig(rank=16, alpha=64.0))


def imitate(name: str, cfg: SftConfig, init: str, top: epath.Path) -> bool:
  """Trains an adapter by SFT, or resumes it; returns whether it is finished."""
  base, tokenizer = weights.with_tokenizer(init, SFT_FORMS[name])
  train, held_out = (
      dialogues(split, count, tokenizer, top / f"{split}.jsonl", cfg)
      for split, count in (("train", 2048), ("validation", 256)))
  sft.run(cfg, Handover(base), tokenizer, train, top / name,
          held_out=held_out, settings={"init": init})
  return sft.finished(top / name, cfg, train)


def learned(name: str, folder: epath.Path) -> dict[str, Any]:
  """Results of a finished SFT run; the module describes the names."""
  rows = writer.read(folder)
  held_out = [row for row in rows if "eval/cross_entropy" in row]
  return {
      "form": name, "updates": rows[-1]["step"],
      "loss_first": rows[0]["loss/cross_entropy"],
      "loss": ending(rows, "loss/cross_entropy"),
      "held_out_first": held_out[0]["eval/cross_entropy"],
      "held_out": held_out[-1]["eval/cross_entropy"],
      "curve": [{"step": row["step"], "loss": row["loss/cross_entropy"],
                 "held_out": row.get("eval/cross_entropy")} for row in rows]}


def runs_of(texts: Sequence[str]) -> list[Run]:
  """The runs that --runs names.

  Raises:
    ValueError: a text is not LR:UPDATES:FORM+FORM.
  """
  runs = []
  for text in texts:
    match = re.fullmatch(r"([\d.e+-]+):(\d+):([\w+]+)", text)
    check(match and set(match[3].split("+")) <= set(FORMS),
          f"--runs={text} is not LR:UPDATES:FORM+FORM with forms among"
          f" {', '.join(FORMS)}")
    runs += [Run(form, float(match[1]), int(match[2]))
             for form in match[3].split("+")]
  return runs


def apart(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
  """|bfloat16 - float32| / float32 of SFT; None while a run is missing."""
  values = {row["form"]: row[name] for row in rows}
  if set(values) != set(SFT_FORMS):
    return None
  return abs(values["bfloat16"] - values["float32"]) / values["float32"]


def write(runs: Sequence[Run], cfgs: Mapping[Run, GrpoConfig],
          tuning: SftConfig, top: epath.Path) -> dict[str, Any]:
  """Writes precision.json and .png of the finished runs; returns the former."""
  rl = [result(run, run.folder(top)) for run in runs
        if grpo.finished(run.folder(top), cfgs[run])]
  sft_rows = [learned(name, top / "sft" / name) for name in SFT_FORMS
              if tuned(top / "sft" / name, tuning)]
  results = {"rl": rl, "sft": sft_rows,
             "sft_loss_apart": apart(sft_rows, "loss"),
             "sft_held_out_apart": apart(sft_rows, "held_out")}
  io.write_json(top / "precision.json", results)
  figures.precision(rl, sft_rows, top / "precision.png")
  return results


def tuned(folder: epath.Path, cfg: SftConfig) -> bool:
  """Whether an SFT run has done all its updates."""
  return bool(rows := writer.read(folder)) and rows[-1]["step"] >= cfg.steps


def table(results: Mapping[str, Any]) -> str:
  """The figures without the curves, as a text table."""
  rl = tables.render(
      ["lr", "form", "moved", "weights", "computing", "accuracy", "format",
       "gap", "largest"],
      [[f"{row['lr']:g}", row["form"], f"{row['moved']:.2e}",
        tables.percent(row["moved_share"]),
        tables.percent(row["computing_share"]),
        tables.percent(row["accuracy"]), tables.percent(row["format"]),
        f"{row['gap']:.1e}", f"{row['gap_max']:.1e}"] for row in results["rl"]])
  tuning = tables.render(
      ["SFT", "loss first", "last", "held out first", "last"],
      [[row["form"], *(f"{row[name]:.4f}" for name in (
          "loss_first", "loss", "held_out_first", "held_out"))]
       for row in results["sft"]])
  return f"{rl}\n\n{tuning}"


def main() -> None:
  top, init = epath.Path(quickstart.WORKDIR.value), common.INIT.value
  seed = quickstart.SEED.value
  runs = runs_of(RUNS.value)
  cfgs = {run: config(run, seed, QUESTIONS.value, SAMPLES.value)
          for run in runs}
  tuning = sft_config(seed, SFT_UPDATES.value)
  jobs = [(f"R1-Zero, lr {run.lr:g}, {run.form}", functools.partial(
      reinforce, run, cfgs[run], init, run.folder(top))) for run in runs
          if not grpo.finished(run.folder(top), cfgs[run])]
  jobs += [(f"SFT, {name}", functools.partial(
      imitate, name, tuning, init, top / "sft")) for name in SFT_FORMS
           if not tuned(top / "sft" / name, tuning)]
  for number, (what, job) in enumerate(jobs):
    print(f"run {number + 1} of {len(jobs)}: {what}", file=sys.stderr,
          flush=True)
    if not job():
      print("interrupted; the same command resumes", file=sys.stderr)
      break
  results = write(runs, cfgs, tuning, top)
  if JSON.value:
    print(json.dumps({name: [
        {k: v for k, v in row.items() if k != "curve"} for row in value]
        if isinstance(value, list) else value
        for name, value in results.items()}), flush=True)
  else:
    print(table(results), flush=True)


if __name__ == "__main__":
  start.run(main)
