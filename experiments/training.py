"""Flags and functions that begin, resume and export every training run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import flags

from r1jax.checkpoint import inits
from r1jax.core.config import check
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.sharding import processes
from r1jax.stages import exporting, weights
from r1jax.stages.weights import Weights
from r1jax.training.lora import LoraConfig

from . import common

# A function with the signature of `weights.with_tokenizer`.
Loader = Callable[..., tuple[Weights, Tokenizer]]

SKIP_DAMAGED = flags.DEFINE_bool(
    "skip_damaged", False, "Move unusable checkpoints to"
    " WORKDIR/checkpoints_damaged and resume from an earlier one.")
EXPORT = ("Folder for the trained model, written at the end in Hugging Face's"
          " format.")


class First(NamedTuple):
  """What a run begins with.

  Attributes:
    weights: the model and its first parameters.
    tokenizer: a tokenizer that fits it.
    settings: the settings that define them, for config.json.
  """

  weights: Weights
  tokenizer: Tokenizer
  settings: dict[str, Any]


def begin(workdir: str, seed: int, mesh: jax.sharding.Mesh | None,
          adapter: LoraConfig, loader: Loader = weights.with_tokenizer
          ) -> First:
  """Loads the model that the run in `workdir` begins with, or began with.

  On resuming, --init=orbax:DIR is the checkpoint that it was when the run
  began. If DIR has removed that checkpoint since, a LoRA run cannot resume; a
  run that trains all parameters can, from its own checkpoints.

  Args:
    workdir: the run's folder.
    seed: of random parameters.
    mesh: the mesh to place parameters on; None for one device.
    adapter: the LoRA settings.
    loader: like `weights.with_tokenizer`.

  Raises:
    ValueError: --compute.packed=false; training packs its rows, and the promise
      would be broken as NaN in the first update.
  """
  check(common.COMPUTE.value().packed, "--compute.packed=false promises rows of"
        " one sequence each, but training packs several into a row; leave it"
        " out")
  began = common.settings_of(workdir).get("init") or ""
  init = common.frozen(common.INIT.value, began)
  source = init if adapter.rank else inits.or_own(init, workdir)
  loaded, tokenizer = loader(
      source, common.COMPUTE.value(), seed=seed, mesh=mesh,
      tokenizer=common.TOKENIZER.value or weights.tokenizer_of(init))
  settings = {"init": init}
  if adapter.rank and not init.startswith("random:"):
    settings |= {"parameters": weights.fingerprint(loaded),
                 weights.ROUNDED: weights.fingerprint(loaded, rounded=True)}
  return First(loaded, tokenizer, settings)


def export(folder: str, trained: Weights, tokenizer: Tokenizer, workdir: str
           ) -> None:
  """Writes the trained model to the folder of --export, if it is not there."""
  if init := unexported(folder, workdir):
    about = exporting.write(folder, trained, tokenizer, init=init,
                            command=" ".join(["python", *sys.argv]))
    print(f"{about}\nwrote {folder}; use it as --init=hf:{folder}", flush=True)


def check_export(folder: str, workdir: str) -> None:
  """Fails before anything is trained if --export could not be written then.

  Raises:
    ValueError: the folder has another model than the run's, or will have the
      run itself.
    OSError: as `exporting.check_unused`.
  """
  run, model = (os.path.realpath(x) for x in (workdir, folder))
  check(os.path.commonpath((run, model)) != model, f"--export={folder} is the"
        f" folder of the run, or one above it; choose one outside {workdir}, or"
        " inside it")
  exporting.check_unused(folder, f"orbax:{workdir}")


def unexported(folder: str, workdir: str) -> str:
  """The --init of the finished run; "" if its model is in `folder` already."""
  init = inits.frozen(f"orbax:{workdir}")
  if processes.from_writer(lambda: exporting.source_of(folder)) != init:
    return init
  print(f"{folder} has the model of {init} already", flush=True)
  return ""
