"""Measures when reasoning emerges in RL: a grid of bases and reward weights.

  python -m experiments.benchmarks.emergence --workdir=runs/emergence --json

A base can earn the format reward at once, with empty thoughts, but the accuracy
reward only with worked steps, which it writes as often as its corpus has pages
with worked steps ("worked pages"). If those are rare and the format's weight is
large, RL reinforces tagged empty thoughts, and worked steps vanish before they
are rewarded. The grid: share of worked pages in the base's corpus x weight of
the format reward x seed, each trained with the quickstart's settings.

The base with the share `corpus.DEFAULT.stepped` of worked pages is that of
--init. The others are this base after more pre-training (--pretrain.*) on a
corpus in which guesses replace some worked pages: the base keeps its skill, but
uses it less often. A finished run is read back, an interrupted one resumes.
Seeds vary slowest, so that half of the grid has each pair once. WORKDIR gets
emergence.json and emergence.png, with the finished runs:

  worked, format_weight, seed, steps   which run
  base_accuracy           pass@1 of the base at temperature 1, on the same
                          problems as the next three
  accuracy, format, length   at the end, on held-out problems (--held_out,
                          16 samples each at temperature 1)
  curve                   accuracy, format and length of the training samples
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
from absl import flags
from etils import epath

from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check
from r1jax.data.sources import corpus
from r1jax.data.sources.corpus import CorpusConfig
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.report import figures, progress, tables, writer
from r1jax.rewards.combine import RewardConfig
from r1jax.stages import (
    evaluating,
    grpo,
    judging,
    pretrain,
    tasks,
    weights,
    zero,
)
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.pretrain import PretrainConfig
from r1jax.stages.weights import Handover, Weights
from r1jax.training.optimizer import OptimizerConfig

from .. import common, flagset, quickstart, start
from .output import JSON

# Pages that the base has not read, at a tenth of its learning rate: it only has
# to change how often it writes worked steps, not to learn adding.
MORE = PretrainConfig(
    steps=500, seed=1, optimizer=OptimizerConfig(
        lr=3e-4, weight_decay=0.1, warmup_steps=50, schedule="cosine",
        final_fraction=0.05))
PRETRAIN = flagset.define(MORE, "pretrain")
WORKED = flags.DEFINE_list(
    "worked", ["0.10", "0.06", "0.03"],
    "Shares of pages with worked steps, among the pages of the base's corpus"
    " that have the form of the prompt.")
FORMAT = flags.DEFINE_list(
    "format", ["1", "0.2"],
    "Weights of the format reward; that of accuracy is 1.")
REPEATS = flags.DEFINE_integer(
    "repeats", 2, "Runs of each pair of share and weight, with seeds --seed,"
    " --seed + 1, ...", lower_bound=1)
HELD_OUT = flags.DEFINE_string(
    "held_out", "validation[:64]",
    "Split of the problems that are evaluated before and after training.")
flags.set_default(quickstart.WORKDIR, "runs/emergence")


class Cell(NamedTuple):
  """One run of the grid.

  Attributes:
    seed: seed of prompts and samples.
    worked: share of worked pages.
    weight: weight of the format reward; accuracy's is 1.
  """

  seed: int
  worked: float
  weight: float

  def folder(self, top: epath.Path) -> epath.Path:
    return (base_folder(top, self.worked) / f"format_{self.weight:g}"
            / f"seed_{self.seed}")


def base_folder(top: epath.Path, worked: float) -> epath.Path:
  return top / f"worked_{worked:g}"


def mixture(worked: float) -> CorpusConfig:
  """The default corpus with another share of worked pages.

  For every missing worked page there are 1.5 more tagged guesses, a quarter of
  a spoiled page less and a quarter of a fragment less.

  Raises:
    ValueError: another share would become negative.
  """
  default = corpus.DEFAULT
  missing = default.stepped - worked
  return dataclasses.replace(default, **{
      name: round(getattr(default, name) + part * missing, 9)
      for name, part in (("tagged", 1.5), ("stepped", -1.0),
                         ("spoiled", -0.25), ("fragment", -0.25))})


def init_of(worked: float, top: epath.Path, cfg: PretrainConfig,
            mesh: jax.sharding.Mesh | None) -> str | None:
  """Makes the base with a share of worked pages, if it does not exist.

  Returns:
    Its --init; None if interrupted.
  """
  if worked == corpus.DEFAULT.stepped:
    return common.INIT.value
  folder = base_folder(top, worked)
  path = folder / "base.safetensors"
  if not path.exists():
    print(f"more pages for the base, {worked:.0%} of them worked",
          file=sys.stderr, flush=True)
    first, tokenizer = common.policy(cfg.seed, mesh)
    pages = mixture(worked)
    state = pretrain.run(
        cfg, Handover(first), tokenizer,
        functools.partial(corpus.document, cfg.seed, config=pages),
        folder / "pretrain", mesh=mesh,
        settings={"init": common.INIT.value,
                  "corpus": config_lib.to_dict(pages)})
    if int(state.step) < cfg.steps:
      return None
    # Rounded like the shipped base.
    weights.save(path, first.model.cfg, state.params, state.router_bias_LE)
  return f"file:{path}"


def train(cell: Cell, cfg: GrpoConfig, base: Weights, tokenizer: Tokenizer,
          folder: epath.Path, mesh: jax.sharding.Mesh | None,
          held_out: str) -> bool:
  """Trains one cell, or resumes it; returns whether it is finished."""
  problems, questions = (tasks.joined(tasks.load("arith", split))
                         for split in (held_out, "train"))
  rewards = RewardConfig(weights=f"format:{cell.weight:g}")
  evals = dataclasses.replace(
      zero.EVAL, max_new_tokens=cfg.max_new_tokens[-1])
  engine = evaluating.sampler(evals, base.model, tokenizer, mesh)
  with judging.judge(tokenizer, cfg.template, rewards) as judge:
    grpo.run(cfg, Handover.copied(base), judge, questions, folder, mesh=mesh,
             evaluate=evaluating.during(
                 evals, engine, judge, problems, folder),
             settings={"worked": cell.worked,
                       "rewards": config_lib.to_dict(rewards)})
  return grpo.finished(folder, cfg)


def result(cell: Cell, folder: epath.Path) -> dict[str, Any]:
  """Results of a finished run; the module describes the names."""
  rows = writer.read(folder)
  last = rows[-1]
  return {
      "worked": cell.worked, "format_weight": cell.weight, "seed": cell.seed,
      "steps": last["step"], "base_accuracy": rows[0]["eval/pass1"],
      "accuracy": last["eval/pass1"], "format": last["eval/format"],
      "length": last["eval/length_mean"],
      "curve": [{"step": row["step"], "accuracy": row["reward/accuracy"],
                 "format": row["reward/format"],
                 "length": row["rollout/length_mean"]} for row in rows[1:]]}


def grid(shares: Iterable[float], factors: Iterable[float],
         seeds: Iterable[int]) -> list[Cell]:
  """All cells; the seed varies slowest."""
  return [Cell(*cell) for cell in itertools.product(seeds, shares, factors)]


def finished(cells: Iterable[Cell], top: epath.Path, steps: int
             ) -> Iterator[dict[str, Any]]:
  """The results of the finished cells."""
  for cell in cells:
    folder = cell.folder(top)
    if grpo.finished(folder, config(cell.seed, steps)):
      yield result(cell, folder)


def config(seed: int, steps: int) -> GrpoConfig:
  """The quickstart's settings, evaluated only before and after training."""
  return dataclasses.replace(
      zero.config(seed, steps), eval_every=steps)


def write(rows: list[dict[str, Any]], top: epath.Path) -> str:
  """Writes emergence.json and .png; returns the table of the runs."""
  io.write_json(top / "emergence.json", rows)
  figures.outcomes(rows, top / "emergence.png")
  header = ["worked pages", "format weight", "seed", "base", "accuracy",
            "format", "length"]
  return tables.render(header, [
      [f"{row['worked']:.0%}", f"{row['format_weight']:g}", str(row["seed"]),
       *(tables.percent(row[name]) for name in (
           "base_accuracy", "accuracy", "format")), f"{row['length']:.1f}"]
      for row in sorted(rows, key=lambda row: (
          -row["worked"], row["format_weight"], row["seed"]))])


def main() -> None:
  shares, steps = numbers(WORKED), quickstart.STEPS.value
  for worked in shares:
    mixture(worked)  # raises before anything is trained
  check(common.INIT.value == "base" or corpus.DEFAULT.stepped in shares,
        f"--init={common.INIT.value} is the base with"
        f" {corpus.DEFAULT.stepped:g} worked pages; add that to --worked")
  top, mesh = epath.Path(quickstart.WORKDIR.value), common.mesh()
  first = quickstart.SEED.value
  cells = grid(shares, numbers(FORMAT), range(first, first + REPEATS.value))
  todo = [cell for cell in cells if not grpo.finished(
      cell.folder(top), config(cell.seed, steps))]
  began = time.monotonic()
  for number, cell in enumerate(todo):
    left = number and (time.monotonic() - began) / number * (
        len(todo) - number)
    print(f"run {number + 1} of {len(todo)}: {cell.worked:.0%} worked pages,"
          f" format reward x {cell.weight:g}, seed {cell.seed}"
          + (f", about {progress.clock(left)} left" if left else ""),
          file=sys.stderr, flush=True)
    init = init_of(cell.worked, top, PRETRAIN.value(), mesh)
    if init is None or not train(
        cell, config(cell.seed, steps), *weights.with_tokenizer(
            init, common.COMPUTE.value(), mesh=mesh,
            tokenizer=common.TOKENIZER.value),
        cell.folder(top), mesh, HELD_OUT.value):
      print("interrupted; the same command resumes", file=sys.stderr)
      break
    write(list(finished(cells, top, steps)), top)
  rows = list(finished(cells, top, steps))
  if not rows:
    return
  table = write(rows, top)
  print(json.dumps(rows) if JSON.value else table, flush=True)


def numbers(flag: flags.FlagHolder) -> list[float]:
  """The numbers of a list flag."""
  return [float(text) for text in flag.value]


if __name__ == "__main__":
  start.run(main)
