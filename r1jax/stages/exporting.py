"""Exports a model to Hugging Face's format: weights, config, tokenizer, card.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from r1jax.checkpoint import hf_config, hf_files, hf_io
from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.lock import Lock
from r1jax.data.text import hf_tokenizer
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.models.config import describe
from r1jax.ops import linear
from r1jax.report import progress, writer
from r1jax.report import workdir as workdir_lib
from r1jax.sharding import processes
from r1jax.stages.weights import Weights
from r1jax.training import lora

CARD = "README.md"
_SOURCE = re.compile(r"^Exported by r1jax from `(.*)`:$", re.MULTILINE)
REWARD = "reward.json"  # beside a reward model's parameters
_GENERATION = "generation_config.json"
# R1's sampling in evaluations (arXiv:2501.12948, section 3).
_SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}


def check_unused(folder: str, source: str = "") -> None:
  """Raises if `folder` is a file, not empty, or cannot be written.

  Every process must call it.

  Args:
    folder: where a model will be written.
    source: orbax:WORKDIR; a folder with a model of that run may stay.

  Raises:
    ValueError: it is in use, or not local.
    OSError: another process writes it (EBUSY), or it cannot be written.
  """
  check(not io.is_remote(folder), f"{folder}: a model is written to a local"
        " folder; choose one, and copy it from there")

  def look() -> None:
    path = os.path.abspath(folder)
    if not os.path.exists(path) or os.path.isdir(path) and not os.listdir(path):
      Lock(hf_files.part_of(folder), folder).release()
      return
    found = source_of(folder)
    run, _ = workdir_lib.named(found)
    check(bool(source) and run == source,
          f"{folder} is in use already"
          + (f": it has the model of {found}" if found else "")
          + "; nothing was changed; choose another folder")

  processes.from_writer(look)


def source_of(folder: str) -> str:
  """The --init of the model that was exported to `folder`; "" if none was."""
  path = epath.Path(folder) / CARD
  match = _SOURCE.search(path.read_text()) if io.is_file(path) else None
  return match[1] if match else ""


@contextlib.contextmanager
def reserved(folder: str) -> Iterator[None]:
  """Keeps `folder` for this command alone, which will write it.

  Every process must call it.

  Raises:
    ValueError: as `check_unused`.
    OSError: another process writes it (EBUSY), or it cannot be written.
  """
  check_unused(folder)
  held: list[Lock] = []
  part = hf_files.part_of(folder)
  processes.from_writer(lambda: held.append(Lock(part, folder)))
  try:
    yield
  finally:
    for lock in held:
      shutil.rmtree(part, ignore_errors=True)
      lock.release()


def write(folder: str, policy: Weights, tokenizer: Tokenizer, *, init: str,
          command: str, dtype: str = "bfloat16", shard_bytes: float = 5e9,
          fp8: bool = False) -> str:
  """Writes a complete model folder for transformers and others, or nothing.

  Every process must call it.

  Args:
    folder: new or empty, local.
    policy: the model.
    tokenizer: its tokenizer.
    init: the model's source, as --init names it; a run's config and last
      evaluation go into the card.
    command: the exporting command, for the card.
    dtype: dtype of the stored parameters.
    shard_bytes: the most bytes of a file.
    fp8: whether to store the layers' matrices as FP8 with a scale for each
      block of 128 x 128.

  Returns:
    A description of the model, and of an adapter's rounding, if it has one.

  Raises:
    ValueError: the folder is in use.
  """
  check_unused(folder)
  out, cfg = os.path.abspath(folder), policy.model.cfg
  fields = hf_config.to_hf(
      cfg, hf_config.family_for(cfg), bos_id=tokenizer.bos_id,
      eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id, dtype=dtype)
  about = ".\n".join([describe(cfg), *adaptation(policy.params, dtype, fp8)])
  extras = dict(tokenizer.files) | {
      _GENERATION: generation(tokenizer),
      CARD: card(os.path.basename(out), init, command, about,
                        config_lib.to_dict(cfg)).encode()}
  extras.pop(hf_tokenizer.DATE, None)  # belongs to the run, not to the model
  _save(out, policy, fields, extras, dtype=dtype, shard_bytes=shard_bytes,
        fp8=fp8)
  return about


def write_reward(folder: str, weights: Weights, tokenizer: Tokenizer,
                 about: dict[str, Any], *, init: str, command: str,
                 dtype: str = "float32", shard_bytes: float = 5e9) -> str:
  """Writes a reward model as ...ForSequenceClassification with one label.

  transformers reads the score at the last token that is not padding. That must
  be the end-of-sequence token of the answer, so if the tokenizer pads with an
  end-of-sequence id, config.json names another padding id, and the card says
  so.

  Args:
    folder, weights, tokenizer, init, command, dtype, shard_bytes: see `write`.
    about: the description from `reward_weights.about`, stored in the folder.

  Returns:
    A description of the model.
  """
  check_unused(folder)
  out, cfg = os.path.abspath(folder), weights.model.cfg
  pad = tokenizer.pad_id
  if pad in tokenizer.eos_ids:
    pad = next(i for i in range(cfg.vocab_size) if i not in tokenizer.eos_ids)
  fields = hf_config.to_hf(
      cfg, hf_config.family_for(cfg), bos_id=tokenizer.bos_id,
      eos_ids=tokenizer.eos_ids, pad_id=pad, dtype=dtype, scalar=True)
  said = ".\n".join([
      f"A reward model over {describe(cfg)}",
      *adaptation(weights.params, dtype),
      "The score is read at the last token, the end of the answer; pad on the"
      f" right with id {pad}, which config.json names"])
  text = card(os.path.basename(out), init, command, said,
              config_lib.to_dict(cfg), "text-classification")
  extras = dict(tokenizer.files) | {
      CARD: text.encode(), REWARD: _json(about)}
  extras.pop(_GENERATION, None)
  _save(out, weights, fields, extras, dtype=dtype, shard_bytes=shard_bytes)
  return said


def _save(out: str, weights: Weights, fields: dict[str, Any],
          extras: dict[str, bytes], **options: Any) -> None:
  with progress.percent("export", not processes.is_writer()) as report:
    hf_io.save(out, weights.model.cfg, lora.dense(weights.params),
               weights.router_bias_LE, fields=fields, extras=extras,
               report=report, **options)


def adaptation(params: Any, dtype: str, fp8: bool = False) -> list[str]:
  """How much of an adapter is lost to rounding in a dtype; [] without one."""
  if not any(map(linear.is_adapted, jax.tree.leaves(
      params, is_leaf=linear.is_adapted))):
    return []
  lost = lora.rounded_away(params, dtype)
  said = ("The adapter is added to the parameters in float32; stored in"
          f" {dtype} the sums lose {lost:.2g} of the adaptation (norm of the"
          " rounding error over norm of the adaptation)")
  remedy = ("; --dtype=float32 keeps it, and so does experiments.export_lora,"
            " the adapter itself")
  further = ", and FP8 rounds further" if fp8 else ""
  return [said + further + (remedy if lost > 0.01 or fp8 else "")]


def generation(tokenizer: Tokenizer) -> bytes:
  """generation_config.json with all end-of-sequence ids.

  Other fields are those of the file that came with the tokenizer, or R1's
  sampling. The ids are replaced because that file may lack one that the model
  was sampled with.
  """
  kept = json.loads(tokenizer.files.get(_GENERATION, b"{}")) or _SAMPLING
  # With this mark transformers regenerates the file from config.json.
  kept = {k: v for k, v in kept.items() if k != "_from_model_config"}
  eos = sorted(tokenizer.eos_ids)
  return _json(kept | {
      "bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id,
      "eos_token_id": eos[0] if len(eos) == 1 else eos})


def results(workdir: epath.Path) -> dict[str, float]:
  """The last evaluation that a run has logged; {} without one."""
  rows = [row for row in writer.read(workdir)
          if any(name.startswith("eval/") for name in row)]
  return {name: value for name, value in (rows[-1] if rows else {}).items()
          if name == "step" or name.startswith("eval/")}


def card(title: str, init: str, command: str, about: str,
         model: dict[str, Any], task: str = "text-generation") -> str:
  """The model card, README.md: description, origin, results, configuration."""
  parts = [
      f"---\nlibrary_name: transformers\npipeline_tag: {task}\n"
      f"tags: [r1jax]\n---\n\n# {title}\n\n{about}.",
      f"Exported by r1jax from `{init}`:\n\n```\n{command}\n```"]
  kind, _, what = init.partition(":")
  config = {"model": model}
  if kind == "orbax":
    workdir = epath.Path(workdir_lib.named(what)[0])
    config = io.read_json(workdir / workdir_lib.CONFIG)
    if scores := results(workdir):
      rows = "".join(f"| {name} | {value:.4g} |\n"
                     for name, value in scores.items()
                     if isinstance(value, int | float))
      parts.append("## Results\n\nThe run's last evaluation.\n\n"
                   f"| metric | value |\n|---|---|\n{rows}".rstrip())
  parts.append("## Configuration\n\n```json\n"
               f"{_json(config).decode().rstrip()}\n```")
  return "\n\n".join(parts) + "\n"


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
