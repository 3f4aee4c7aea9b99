"""Flags and start-up that the experiments share."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.core.lock import Lock
from r1jax.core.prompt import Prompt
from r1jax.data import hf_tokenizer, load, mixture, preference, templates
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.data.mixture import Mixture
from r1jax.data.tokenizer import Tokenizer
from r1jax.models.compute import Compute
from r1jax.report import workdir as workdir_lib
from r1jax.sharding import processes
from r1jax.sharding.mesh import MeshConfig, mesh_or_none
from r1jax.stages import exporting, inits, tasks, weights
from r1jax.stages.weights import Weights
from r1jax.training.lora import LoraConfig

from . import flagset

# As `weights.with_tokenizer`.
Loader = Callable[..., tuple[Weights, Tokenizer]]

INIT = flags.DEFINE_string(
    "init", "base", "First parameters: base, file:PATH.safetensors,"
    " orbax:WORKDIR (its newest checkpoint; WORKDIR@STEP, WORKDIR@best), hf:DIR"
    " (a folder of a Hugging Face model) or random:PRESET.")
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
            " chat-think (the same with a thought opened), r1, these with"
            " variables of the chat template (chat:enable_thinking=False) or"
            " with instruct=False (nothing then says how to give the final"
            " answer), or file:PATH, a text of your own with {question};"
            " default: that of the run in --init=orbax:WORKDIR, else r1-zero.")
SYSTEM = flags.DEFINE_string(
    "system", "", "Text of the system message that a chat template begins with,"
    " or file:PATH; a run keeps it in its template.")
EXPORT = "Folder to write the result to at the end, in Hugging Face's format."
COMPUTE = flagset.define(Compute, "compute")
MESH = flagset.define(MeshConfig, "mesh")


def policy(seed: int, mesh: jax.sharding.Mesh | None, init: str = "", *,
           computing: bool = False) -> tuple[Weights, Tokenizer]:
  """The model that the flags name, on `mesh`, and a tokenizer that fits it.

  Args:
    seed: of random parameters.
    mesh: where the parameters lie.
    init: where they come from; by default --init.
    computing: as for `weights.load`: they are not to be trained.
  """
  return weights.with_tokenizer(
      init or INIT.value, COMPUTE.value(), seed=seed, mesh=mesh,
      tokenizer=TOKENIZER.value, computing=computing)


class First(NamedTuple):
  """What a run begins with.

  Attributes:
    weights: model and first parameters.
    tokenizer: that fits them.
    settings: what of it defines the run, for config.json.
  """

  weights: Weights
  tokenizer: Tokenizer
  settings: dict[str, Any]


def first(workdir: str, seed: int, mesh: jax.sharding.Mesh | None,
          adapter: LoraConfig, loader: Loader = weights.with_tokenizer
          ) -> First:
  """The model of the flags, as the run in `workdir` begins or began with it.

  --init=orbax:DIR names the checkpoint that it named when the run began. An
  adapter is tied to the parameters that it adapts; a run of all parameters has
  them in its own checkpoints, and goes on where DIR has lost that one.

  Args:
    workdir: of the run.
    seed: of random parameters.
    mesh: where the parameters lie.
    adapter: what is trained.
    loader: as `weights.with_tokenizer`.
  """
  init = frozen(INIT.value, settings_of(workdir).get("init") or "")
  source = init if adapter.rank else inits.or_own(init, workdir)
  loaded, tokenizer = loader(
      source, COMPUTE.value(), seed=seed, mesh=mesh,
      tokenizer=TOKENIZER.value or weights.tokenizer_of(init))
  settings = {"init": init}
  if adapter.rank and not init.startswith("random:"):
    settings["parameters"] = weights.fingerprint(loaded)
  return First(loaded, tokenizer, settings)


def frozen(init: str, began: str = "") -> str:
  """`inits.frozen`; says so where it is not what was typed."""
  found = inits.frozen(init, began)
  if found != init:
    print(f"{init} is {found}" + (
        ", as when this folder was begun; another folder takes today's"
        if found == began else ""), flush=True)
  return found


def settled(tokenizer: Tokenizer, template: str, workdir: str = "",
            date: str = "") -> Tokenizer:
  """The tokenizer as a run of a template keeps it.

  The template's own end of an answer ends; and where the template tells the
  date, that is always the one of the run's beginning.

  Args:
    tokenizer: of the model.
    template: as `template` gives it.
    workdir: of the run, which may have begun on another day.
    date: of the beginning, for runs that keep no tokenizer.
  """
  tokenizer = templates.ended(tokenizer, template)
  if tokenizer.date or not preference.dated(template, tokenizer):
    return tokenizer
  kept = epath.Path(workdir) / tokenizer_lib.FOLDER / hf_tokenizer.DATE
  date = date or processes.from_writer(
      lambda: kept.read_text().strip() if kept.exists()
      else datetime.date.today().isoformat())
  print(f"the chat template tells the date: for this run it is {date}",
        flush=True)
  return tokenizer.on(date)


@contextlib.contextmanager
def alone(folder: str | os.PathLike) -> Iterator[None]:
  """Keeps other commands out of a folder; process 0 does it for all.

  Raises:
    OSError: another process has it.
  """
  held: list[Lock] = []
  processes.from_writer(lambda: held.append(Lock(folder)))
  try:
    yield
  finally:
    for lock in held:
      lock.release()


def settings_of(workdir: str | os.PathLike) -> dict[str, Any]:
  """The config of the run in a folder; {} where none has begun."""
  path = epath.Path(workdir) / workdir_lib.CONFIG
  return processes.from_writer(
      lambda: io.read_json(path)["config"] if path.exists() else {})


# What to do about settings that are not flags.
REMEDIES = {
    "data_digest": "the questions of --data are not those that the run began"
                   " with: another --data_dir, or a file that has changed",
    "rules": "that file has changed; its rules judge otherwise, or may",
    "evaluation.digest": "the questions of the evaluation are others now",
    "evaluation": "evaluations along one run must be comparable",
    "parameters": "the model in --init has changed; the adapter in this run was"
                  " trained on the former one",
    "data": "other data, or a file that has changed since",
    "eval_data": "other data, or a file that has changed since"}


def template(given: str = "", init: str = "") -> str:
  """--template as everything else takes it: a file's text in place of its path.

  Args:
    given: what was typed; by default that of the run in `init` if that is
      orbax:WORKDIR, whose config has the text that it was trained with, else
      r1-zero.
    init: of the model; by default --init.

  Raises:
    ValueError: as `templates.read` and `templates.with_system`.
  """
  init = init or INIT.value
  kind, _, workdir = init.partition(":")
  path = epath.Path(workdir_lib.named(workdir)[0]) / "config.json"
  own = ""
  if kind == "orbax" and path.exists():
    own = io.read_json(path)["config"].get("template", "")
  text = templates.read(given or own or "r1-zero")
  if SYSTEM.value:
    text = templates.with_system(text, SYSTEM.value)
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
