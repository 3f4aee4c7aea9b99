"""Pre-trains the embedded base models on generated web-like pages.

The bases in the package were made by

  python -m experiments.pretrain --workdir=runs/base --export=DIR
  python -m experiments.pretrain --pages=world --init=random:base-world \\
      --steps=4500 --row_length=224 --optimizer.total_steps=3600 \\
      --workdir=runs/world --export=DIR
"""

from __future__ import annotations

import functools
import sys

import jax
from absl import flags
from etils import epath

from r1jax.checkpoint import export, inits, retention
from r1jax.core import config as config_lib
from r1jax.core.config import check
from r1jax.data.sources import corpus
from r1jax.data.sources.world import pages
from r1jax.data.text import hf_tokenizer
from r1jax.models.compute import Compute
from r1jax.report import figures, workdir, writer
from r1jax.sharding import processes
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import pretrain, weights
from r1jax.stages.reports import training_report

from . import flagset, start

PRETRAIN = flagset.define(pretrain.PretrainConfig)
COMPUTE = flagset.define(Compute, "compute")
PAGES = flags.DEFINE_enum(
    "pages", "arith", ["arith", "world"], "Training text: pages about sums, or"
    " pages of the small world.")
CORPUS = flagset.define(corpus.DEFAULT, "corpus")
WORLD = flagset.define(pages.DEFAULT, "world")
MESH = flagset.define(MeshConfig, "mesh")
INIT = flags.DEFINE_string(
    "init", "random:base-arith", "Model to start from: random:PRESET, or to"
    " continue base, file:PATH.safetensors, orbax:WORKDIR or hf:DIR.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "Folder with tokenizer.json, or a SentencePiece model;"
    " default: the one of --init, else the embedded one.")
WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of the run.")
SKIP_DAMAGED = flags.DEFINE_bool(
    "skip_damaged", False, "Move unusable checkpoints to"
    " WORKDIR/checkpoints_damaged and resume from an earlier one.")
EXPORT = flags.DEFINE_string(
    "export", "", "Folder for NAME.safetensors (bfloat16), NAME.json and the"
    " loss curve, written at the end.")
NAME = flags.DEFINE_string("name", "base", "NAME of the exported files.")


def main() -> None:
  cfg = PRETRAIN.value()
  exported = epath.Path(EXPORT.value or ".") / f"{NAME.value}.safetensors"
  command = " ".join(["-m experiments.pretrain", *sys.argv[1:]])
  # Fail early.
  before = processes.from_writer(lambda: was_exported(
      exported, command, cfg.steps)) if EXPORT.value else False
  world = PAGES.value == "world"
  mixture = WORLD.value() if world else CORPUS.value()
  mesh = None
  if jax.device_count() > 1:
    mesh = make_mesh(MESH.value())
  path = epath.Path(WORKDIR.value) / workdir.CONFIG
  began = processes.from_writer(
      lambda: workdir.stored_in(path.parent)["config"] if path.exists() else {})
  init = inits.frozen(INIT.value, began.get("init", ""))
  first = weights.load(inits.or_own(init, WORKDIR.value), COMPUTE.value(),
                       jax.random.key(cfg.seed), mesh)
  text_at = functools.partial((pages if world else corpus).document, cfg.seed,
                              config=mixture)
  tokenizer = hf_tokenizer.load(TOKENIZER.value or (
      weights.WORLD_TOKENIZER if world else weights.tokenizer_of(INIT.value)))
  state = pretrain.run(
      cfg, weights.Handover(first), tokenizer, text_at, WORKDIR.value,
      mesh=mesh, skip_damaged=SKIP_DAMAGED.value,
      settings={"init": init, "corpus": config_lib.to_dict(mixture)})
  processes.from_writer(lambda: training_report.tell(WORKDIR.value))
  if not EXPORT.value or int(state.step) < cfg.steps:
    return
  if before:
    print(f"{exported} is there already", flush=True)
    return
  weights.save(
      exported, first.model.cfg, state.params, state.router_bias_LE, made_by={
          "command": command,
          "config": config_lib.to_dict(cfg),
          "corpus": config_lib.to_dict(mixture),
          "versions": workdir.versions()})
  processes.from_writer(lambda: figures.curves(
      writer.read(WORKDIR.value), exported.parent / f"{NAME.value}_loss.png",
      ("loss/cross_entropy", "loss/mtp"), "Pre-training loss (nats per token)"))
  print(f"wrote {exported}", flush=True)


def was_exported(exported: epath.Path, command: str, steps: int) -> bool:
  """Whether this command has written the file before, at its end.

  Raises:
    ValueError: there is such a file that another command or run wrote.
  """
  if not exported.exists():
    return False
  done = retention.complete(epath.Path(WORKDIR.value) / "checkpoints")
  made = export.load_metadata(exported).get("made_by", {}).get("command")
  check(made == command and done[-1:] == [steps], f"{exported} exists; choose"
        " another --export or --name")
  return True


if __name__ == "__main__":
  start.run(main, many=True)
