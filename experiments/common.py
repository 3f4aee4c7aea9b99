"""Flags of a model and where it computes, for all that use one."""

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
from r1jax.core import io
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
    "init", "base", "First parameters: base or base:world (they ship along),"
    " hf:DIR (a Hugging Face folder), orbax:WORKDIR (its newest checkpoint;"
    " WORKDIR@STEP, WORKDIR@best), peft:DIR (an adapter with its base),"
    " file:PATH.safetensors or random:PRESET.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "Folder with tokenizer.json, or a SentencePiece model;"
    " default: the one that belongs to --init, else the embedded one.")

# What to do about settings that are not flags.
REMEDIES = {
    "data_digest": "the questions of --data are not those that the run began"
                   " with: another --data_dir, or a file that has changed",
    "rules": "that file has changed; its rules judge otherwise, or may",
    "evaluation.digest": "the questions of the evaluation are others now",
    "evaluation": "evaluations along one run must be comparable",
    "parameters_bfloat16": "the same, seen in bfloat16",
    "parameters": "the model in --init has changed; the adapter in this run was"
                  " trained on the former one",
    "sft_data": "other data, or a file that has changed since",
    "reward_data": "other data, or a file that has changed since",
    "held_out": "other data, or a file that has changed since"}


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


def frozen(init: str, began: str = "") -> str:
  """`inits.frozen`; says so where it is not what was typed."""
  found = inits.frozen(init, began)
  if found != init:
    print(f"{init} is {found}" + (
        ", as when this folder was begun; another folder takes today's"
        if found == began else ""), flush=True)
  return found


def frozen_in(*folders: str | os.PathLike) -> str:
  """--init, frozen as in the first of the folders that has begun with it."""
  return frozen(INIT.value, next(filter(None, (
      settings_of(folder).get("init") for folder in folders)), ""))


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


def take(out: str, settings: dict[str, Any]) -> epath.Path:
  """--out for a result.json of these settings; another's is not replaced."""
  processes.from_writer(lambda: workdir_lib.take_for(
      "result.json", out, settings, workdir_lib.versions()))
  return epath.Path(out)


def mesh() -> jax.sharding.Mesh | None:
  """The mesh of the flags; None for a single device."""
  return mesh_or_none(MESH.value())
