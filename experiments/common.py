"""Flags of a model and its tokenizer, and helpers that most experiments share.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags
from etils import epath

from r1jax.checkpoint import inits
from r1jax.core.lock import Lock
from r1jax.data.streams import preference
from r1jax.data.text import hf_tokenizer, templates
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.report import workdir as workdir_lib
from r1jax.sharding import processes
from r1jax.sharding.mesh import mesh_or_none
from r1jax.stages import weights
from r1jax.stages.weights import Weights

from .computing import COMPUTE, MESH

INIT = flags.DEFINE_string(
    "init", "base", "Model to start from: base or base:world (in the package),"
    " hf:DIR (a Hugging Face folder), orbax:WORKDIR (the newest checkpoint of a"
    " run; WORKDIR@STEP, WORKDIR@best: another one), peft:DIR (an adapter with"
    " its base), file:PATH.safetensors or random:PRESET.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "Folder with tokenizer.json, or a SentencePiece model;"
    " default: the one of --init, else the embedded one.")

# Hints about settings of a run that are not flags, if they differ on resuming.
REMEDIES = {
    "data_digest": "the questions of --data are not those that the run began"
                   " with: another --data_dir, or a file that has changed",
    "rules": "that file has changed, and perhaps the verdicts of its rules",
    "evaluation.digest": "the questions of the evaluation have changed",
    "evaluation": "evaluations during one run must be comparable",
    "parameters_bfloat16": "the same, rounded to bfloat16",
    "parameters": "the model in --init has changed; the adapter in this run was"
                  " trained on the former one",
    "sft_data": "other data, or a file that has changed since",
    "reward_data": "other data, or a file that has changed since",
    "held_out": "other data, or a file that has changed since"}


def policy(seed: int, mesh: jax.sharding.Mesh | None, init: str = "", *,
           computing: bool = False) -> tuple[Weights, Tokenizer]:
  """Loads the model of the flags onto `mesh`, and a tokenizer that fits it.

  Args:
    seed: of random parameters.
    mesh: the mesh to place parameters on; None for one device.
    init: the model; by default --init.
    computing: as for `weights.load`: whether the model is not trained.
  """
  return weights.with_tokenizer(
      init or INIT.value, COMPUTE.value(), seed=seed, mesh=mesh,
      tokenizer=TOKENIZER.value, computing=computing)


def frozen(init: str, began: str = "") -> str:
  """`inits.frozen`; prints the result if it differs from `init`."""
  found = inits.frozen(init, began)
  if found != init:
    print(f"{init} is {found}" + (
        ", as when this folder was begun; another folder would use the present"
        " one" if found == began else ""), flush=True)
  return found


def frozen_in(*folders: str | os.PathLike) -> str:
  """--init with its step, as stored in the first folder that has one."""
  return frozen(INIT.value, next(filter(None, (
      settings_of(folder).get("init") for folder in folders)), ""))


def settled(tokenizer: Tokenizer, template: str, workdir: str = "",
            date: str = "") -> Tokenizer:
  """The tokenizer as a run with this template uses it.

  The template's end-of-answer token ends a completion; and if the template
  states the date, it is always the date on which the run began.

  Args:
    tokenizer: the model's tokenizer.
    template: the result of `asking.template`.
    workdir: the run's folder, which may store an earlier date.
    date: the date on which the run began, for runs that store no tokenizer.
  """
  tokenizer = templates.ended(tokenizer, template)
  if tokenizer.date or not preference.dated(template, tokenizer):
    return tokenizer
  kept = epath.Path(workdir) / tokenizer_lib.FOLDER / hf_tokenizer.DATE
  date = date or processes.from_writer(
      lambda: kept.read_text().strip() if kept.exists()
      else datetime.date.today().isoformat())
  print(f"the chat template states the date: in this run it is {date}",
        flush=True)
  return tokenizer.on(date)


@contextlib.contextmanager
def alone(folder: str | os.PathLike) -> Iterator[None]:
  """Locks a folder against other commands; process 0 holds the lock for all.

  Raises:
    OSError: another process has the lock.
  """
  held: list[Lock] = []
  processes.from_writer(lambda: held.append(Lock(folder)))
  try:
    yield
  finally:
    for lock in held:
      lock.release()


def settings_of(workdir: str | os.PathLike) -> dict[str, Any]:
  """The config of the run in a folder; {} if there is none."""
  path = epath.Path(workdir) / workdir_lib.CONFIG
  return processes.from_writer(
      lambda: workdir_lib.stored_in(workdir)["config"] if path.exists() else {})


def take(out: str, settings: dict[str, Any]) -> epath.Path:
  """Prepares --out for a result.json; one of other settings is not replaced."""
  processes.from_writer(lambda: workdir_lib.take_for(
      "result.json", out, settings, workdir_lib.versions()))
  return epath.Path(out)


def mesh() -> jax.sharding.Mesh | None:
  """The mesh of the flags; None for a single device."""
  return mesh_or_none(MESH.value())
