"""What begins, resumes and ends in all training: flags, and what they say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import flags

from r1jax.checkpoint import inits
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.stages import exporting, weights
from r1jax.stages.weights import Weights
from r1jax.training.lora import LoraConfig

from . import common

# As `weights.with_tokenizer`.
Loader = Callable[..., tuple[Weights, Tokenizer]]

SKIP_DAMAGED = flags.DEFINE_bool(
    "skip_damaged", False, "Move a checkpoint that cannot be used to"
    " WORKDIR/checkpoints_damaged and resume from the one before.")
EXPORT = "Folder to write the result to at the end, in Hugging Face's format."


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


def begin(workdir: str, seed: int, mesh: jax.sharding.Mesh | None,
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
  """What training ends with when --export names a folder."""
  about = exporting.write(
      folder, trained, tokenizer, init=f"orbax:{workdir}",
      command=" ".join(["python", *sys.argv]))
  print(f"{about}\nwrote {folder}; use it as --init=hf:{folder}", flush=True)
