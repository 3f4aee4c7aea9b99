"""Flags and start-up that the experiments share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import jax
from absl import flags
from etils import epath

from experiments import flagset
from r1jax.core import io
from r1jax.core.prompt import Prompt
from r1jax.data import load, mixture, templates
from r1jax.data.mixture import Mixture
from r1jax.data.tokenizer import Tokenizer
from r1jax.models.compute import Compute
from r1jax.sharding.mesh import MeshConfig, mesh_or_none
from r1jax.stages import exporting, tasks, weights
from r1jax.stages.weights import Weights

INIT = flags.DEFINE_string(
    "init", "base", "First parameters: base, file:PATH.safetensors,"
    " orbax:WORKDIR, hf:DIR (a folder of a Hugging Face model) or"
    " random:PRESET.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "Folder with tokenizer.json, or a SentencePiece model;"
    " default: the one that belongs to --init, else the embedded one.")
DATA = flags.DEFINE_string(
    "data", "arith", "Data sets, separated by commas, with weights"
    " (arith:2,units:1), passes (arith:3x,units:0.5x) or neither:"
    f" {', '.join(sorted(load.SOURCES))}, or a Python file of your own"
    " (my_task.py). For train_sft JSONL files.")
MIXTURE = flags.DEFINE_string(
    "mixture", "", "Weights by domain instead: r1-rl has the paper's,"
    " r1-rl:math+code those of two.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder of the data set's own files, or one that has a"
    " folder of its name (DIR/gsm8k) for every data set.")
SKIP_DAMAGED = flags.DEFINE_bool(
    "skip_damaged", False, "Move a checkpoint that cannot be used to"
    " WORKDIR/checkpoints_damaged and resume from the one before.")
TEMPLATE = ("Prompt template: r1-zero, plain, chat (the tokenizer's own),"
            " chat-think (the same with a thought opened), these with variables"
            " of the chat template (chat:enable_thinking=False), r1, or"
            " file:PATH, a text of your own with {question}; default: that of"
            " the run in --init=orbax:WORKDIR, else r1-zero.")
EXPORT = "Folder to write the result to at the end, in Hugging Face's format."
COMPUTE = flagset.define(Compute, "compute")
MESH = flagset.define(MeshConfig, "mesh")


def policy(seed: int, mesh: jax.sharding.Mesh | None, *,
           computing: bool = False) -> tuple[Weights, Tokenizer]:
  """The model that the flags name, on `mesh`, and a tokenizer that fits it.

  `computing` as for `weights.load`: it is not to be trained.
  """
  return weights.with_tokenizer(
      INIT.value, COMPUTE.value(), seed=seed, mesh=mesh,
      tokenizer=TOKENIZER.value, computing=computing)


def template(given: str = "", init: str = "") -> str:
  """--template as everything else takes it: a file's text in place of its path.

  Args:
    given: what was typed; by default that of the run in `init` if that is
      orbax:WORKDIR, whose config has the text that it was trained with, else
      r1-zero.
    init: of the model; by default --init.

  Raises:
    ValueError: as `templates.read`.
  """
  init = init or INIT.value
  kind, _, workdir = init.partition(":")
  path, own = epath.Path(workdir) / "config.json", ""
  if kind == "orbax" and path.exists():
    own = io.read_json(path)["config"].get("template", "")
  text = templates.read(given or own or "r1-zero")
  if given and own and text != own:
    print(f"{init} was trained with the template {own[:40]!r}; this command"
          f" asks by {text[:40]!r} (--template)", flush=True)
  if given and text != given:
    print(f"{given}: a template of {len(text)} characters that ends in"
          f" {text[-20:]!r}", flush=True)
  return text


def mesh() -> jax.sharding.Mesh | None:
  """The mesh of the flags; None for a single device."""
  return mesh_or_none(MESH.value())


def sources(text: str, split: str) -> dict[str, Sequence[Prompt]]:
  """`tasks.load` with the files of --data_dir."""
  return tasks.load(text, split, DATA_DIR.value)


def mixed(parts: Mapping[str, Sequence[Prompt]]) -> Mixture:
  """The sources of --data in the amounts of --mixture, or else of --data."""
  prompts = Mixture(parts, mixture.parse(MIXTURE.value or DATA.value))
  if len(parts) > 1:
    print(prompts.explain(), flush=True)
  return prompts


def export(folder: str, trained: Weights, tokenizer: Tokenizer, workdir: str
           ) -> None:
  """What training ends with when --export names a folder."""
  about = exporting.write(
      folder, trained, tokenizer, init=f"orbax:{workdir}",
      command=" ".join(["python", *sys.argv]))
  print(f"{about}\nwrote {folder}; use it as --init=hf:{folder}", flush=True)
