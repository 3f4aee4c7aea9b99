"""Flags and start-up that the experiments share."""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence

import jax
from absl import flags

from experiments import flagset
from r1jax.core.config import check
from r1jax.core.types import Prompt
from r1jax.data import hf_tokenizer, load, mixture
from r1jax.data.mixture import Mixture
from r1jax.data.tokenizer import Tokenizer, check_fits
from r1jax.models.layers import Compute
from r1jax.rewards import rules
from r1jax.rewards.combine import RewardConfig
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


def sources(text: str, split: str) -> dict[str, Sequence[Prompt]]:
  """Questions of a split of every data set that `text` names.

  Args:
    text: as --data; amounts in it are not looked at.
    split: a split of each of them, e.g. "train" or "test[:100]".
  """
  return {name: _own_prompts(name, split) if name.endswith(".py")
          else load.load(name, DATA_DIR.value or None, split)
          for name, _ in mixture.parse(text).amounts}


def _own_prompts(path: str, split: str) -> list[Prompt]:
  match = re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", split)
  check(match is not None, f"split={split!r} of {path}: write train or"
        " test[:100]")
  name, first, last = match.groups()
  found = list(own(path).prompts(name))
  return found[int(first or 0):int(last) if last else None]


def own(path: str) -> types.ModuleType:
  """A Python file of the user's, imported.

  It has `prompts(split)`, a list of Prompts, and, where their verifiers are
  rules of its own, `VERIFIERS`, a dict from verifier to rule.

  Raises:
    ValueError: there is no such file, or it has no `prompts`.
  """
  file = pathlib.Path(path).resolve()
  check(file.is_file(), f"--data names {path}, which is not a file")
  # Under its own name, so that the children that judge can import it too.
  if str(file.parent) not in sys.path:
    sys.path.append(str(file.parent))
  module = importlib.import_module(file.stem)
  check(getattr(module, "__file__", None) == str(file),
        f"{path} cannot be imported as {file.stem!r}, which is"
        f" {getattr(module, '__file__', 'a built-in module')}; rename it")
  check(hasattr(module, "prompts"), f"{path} has no function prompts(split)")
  return module


def mixed(parts: Mapping[str, Sequence[Prompt]]) -> Mixture:
  """The sources of --data in the amounts of --mixture, or else of --data."""
  found = Mixture(parts, mixture.parse(MIXTURE.value or DATA.value))
  if len(parts) > 1:
    print(found.explain(), flush=True)
  return found


def joined(parts: Mapping[str, Sequence[Prompt]]) -> list[Prompt]:
  """All questions of all sources, numbered as in a mixture."""
  return [mixture.number(parts, name, prompt)
          for name, prompts in parts.items() for prompt in prompts]


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
  rules.check(kept)  # before the work
  check(len(kept) > 0, f"none of {len(found)} {what} prompts fits the"
        f" {max(limit, 0)} tokens that are left for it (the shortest has"
        f" {min(lengths, default=0)}): {remedy}")
  if len(kept) < len(found):
    print(f"{len(found) - len(kept)} of {len(found)} {what} prompts are left"
          f" out: they have more than {limit} tokens; to use them, {remedy}",
          flush=True)
  return kept


def all_fitting(parts: Mapping[str, Sequence[Prompt]], judge: Judge,
                limit: int, what: str) -> dict[str, Sequence[Prompt]]:
  """`fitting` of every source."""
  return {name: fitting(
      prompts, judge, limit, what if len(parts) == 1 else f"{name} {what}")
          for name, prompts in parts.items()}


@contextlib.contextmanager
def judge(tokenizer: Tokenizer, template: str, rewards: RewardConfig,
          data: str = "") -> Iterator[Judge]:
  """A judge whose children live inside the `with` block.

  Args:
    tokenizer: of the policy.
    template: name in `data.templates`.
    rewards: which, how much, by how many children.
    data: as --data; Python files in it bring their own verifiers.
  """
  weights = rewards.resolve()
  found = rules.select(rewards)
  verifiers = dict(found["accuracy"])
  for name, _ in mixture.parse(data or DATA.value).amounts:
    if name.endswith(".py"):
      verifiers |= getattr(own(name), "VERIFIERS", {})
  found["accuracy"] = verifiers
  unknown = sorted(set(weights.weights) - set(found))
  check(not unknown, f"no rule gives the reward {', '.join(unknown)}; choose"
        f" from {', '.join(found)} (reward models cannot be named by flags)")
  with Pool({name: found[name] for name in weights.weights},
            workers=rewards.children, deadline=rewards.deadline) as pool:
    yield Judge(tokenizer, template, pool, weights)


def export(folder: str, found: Weights, tokenizer: Tokenizer, workdir: str
           ) -> None:
  """What training ends with when --export names a folder."""
  about = exporting.write(
      folder, found, tokenizer, init=f"orbax:{workdir}",
      command=" ".join(["python", *sys.argv]))
  print(f"{about}\nwrote {folder}; use it as --init=hf:{folder}", flush=True)
