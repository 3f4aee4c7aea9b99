"""Flags and start-up that the experiments share."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax
from absl import flags

from experiments import flagset
from r1jax.core.config import check
from r1jax.core.types import Prompt
from r1jax.data import hf_tokenizer, load
from r1jax.data.tokenizer import Tokenizer, check_fits
from r1jax.models.layers import Compute
from r1jax.rewards.combine import Combine
from r1jax.rewards.rules import RULES
from r1jax.rewards.runner import Pool
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import exporting, weights
from r1jax.stages.judging import Judge
from r1jax.stages.weights import Weights

INIT = flags.DEFINE_string(
    "init", "base", "First parameters: base, file:PATH.safetensors,"
    " orbax:WORKDIR, hf:DIR (a folder of a Hugging Face model) or"
    " random:PRESET.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "Folder with tokenizer.json, or a SentencePiece model;"
    " default: the one that belongs to --init, else the embedded one.")
DATA = flags.DEFINE_string(
    "data", "arith", "Data set: arith or gsm8k; for train_sft JSONL files,"
    " separated by commas.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder of the data set's own files (gsm8k).")
EXPORT = "Folder to write the result to at the end, in Hugging Face's format."
COMPUTE = flagset.define(Compute, "compute")
MESH = flagset.define(MeshConfig, "mesh")


def policy(seed: int, mesh: jax.sharding.Mesh | None
           ) -> tuple[Weights, Tokenizer]:
  """The model that the flags name, on `mesh`, and a tokenizer that fits it."""
  tokenizer = hf_tokenizer.load(
      TOKENIZER.value or weights.tokenizer_of(INIT.value))
  found = weights.load(
      INIT.value, COMPUTE.resolve(Compute()), jax.random.key(seed), mesh)
  check_fits(tokenizer, found.model.cfg.vocab_size)
  return found, tokenizer


def mesh() -> jax.sharding.Mesh | None:
  """The mesh of the flags; None for a single device."""
  if jax.device_count() == 1:
    return None
  return make_mesh(MESH.resolve(MeshConfig()))


def prompts(split: str) -> load.Prompts:
  """Questions of a split of the data set that the flags name."""
  return load.load(DATA.value, DATA_DIR.value or None, split)


def fitting(found: Sequence[Prompt], judge: Judge, limit: int,
            what: str) -> Sequence[Prompt]:
  """The prompts of at most `limit` tokens; prints how many are left out.

  What is measured on the rest is about the rest alone: it is said, and
  evaluation stores the count beside its numbers.

  Args:
    found: prompts.
    judge: phrases them.
    limit: tokens that --max_new_tokens leaves of context and row.
    what: name of the prompts, for the message.

  Raises:
    ValueError: none fits.
  """
  found = list(found)  # read once
  lengths = [len(judge.tokens(prompt)) for prompt in found]
  kept = [p for p, n in zip(found, lengths, strict=True) if n <= limit]
  remedy = ("lower --max_new_tokens, raise --row_length (training) or choose a"
            " model with a longer context")
  check(len(kept) > 0, f"none of {len(found)} {what} prompts fits the"
        f" {max(limit, 0)} tokens that are left for it (the shortest has"
        f" {min(lengths, default=0)}): {remedy}")
  if len(kept) < len(found):
    print(f"{len(found) - len(kept)} of {len(found)} {what} prompts are left"
          f" out: they have more than {limit} tokens; to use them, {remedy}",
          flush=True)
  return kept


@contextlib.contextmanager
def judge(tokenizer: Tokenizer, template: str,
          rewards: Mapping[str, float]) -> Iterator[Judge]:
  """A judge whose children live inside the `with` block."""
  rules = {name: RULES[name] for name in rewards}
  workers = max(1, min(8, (os.cpu_count() or 2) // 2))
  with Pool(rules, workers=workers) as pool:
    yield Judge(tokenizer, template, pool, Combine(weights=rewards))


def export(folder: str, found: Weights, tokenizer: Tokenizer, workdir: str
           ) -> None:
  """What training ends with when --export names a folder."""
  about = exporting.write(
      folder, found, tokenizer, init=f"orbax:{workdir}",
      command=" ".join(["python", *sys.argv]))
  print(f"{about}\nwrote {folder}; use it as --init=hf:{folder}", flush=True)
