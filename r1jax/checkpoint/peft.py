"""Reads and writes LoRA adapters in the format of the peft package."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from r1jax.checkpoint import hf_files, hf_names, trees
from r1jax.core import io
from r1jax.core.config import check
from r1jax.models.config import ModelConfig
from r1jax.models.model import build

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Settings of peft that are supported only with these values.
_PLAIN = {"bias": "none", "use_dora": False, "use_rslora": False,
          "fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {},
          "alpha_pattern": {}, "layer_replication": None,
          "alora_invocation_tokens": None, "use_qalora": False}
# Initialisations that leave the base model as it is; others, such as pissa,
# move a part of its weights into the adapter.
_INITIAL = (None, True, False, "gaussian", "orthogonal", "eva")
_MOST = 1e9  # largest alpha
_DTYPES = ("F32", "F16", "BF16")


def save(folder: str | os.PathLike, cfg: ModelConfig, adapter: Any, *,
         rank: int, alpha: float, base: str = "") -> None:
  """Writes `adapter_model.safetensors` (float32) and `adapter_config.json`.

  Names are those of the model in Hugging Face's format. lora_A is [rank, in],
  lora_B [out, rank], and the update of a weight alpha / rank * lora_B lora_A.
  The folder is written whole or not at all.

  Args:
    folder: local; must not exist or must be empty.
    cfg: of the model.
    adapter: from `training.lora.init`, with leaves `w_a` and `w_b`.
    rank: of the adapter.
    alpha: of the adapter.
    base: folder or name of the base model, to write into the config.

  Raises:
    ValueError: the folder has files.
    OSError: the disk is full or read-only.
  """
  tensors, modules = {}, set()
  for module, a, b in _modules(cfg, trees.flatten(adapter)):
    modules.add(module)
    tensors[f"base_model.model.{module}.lora_A.weight"] = a
    tensors[f"base_model.model.{module}.lora_B.weight"] = b
  data = safetensors.numpy.save(tensors, {"format": "pt"})
  with hf_files.whole(folder, len(data)) as part:
    io.write_bytes(part / WEIGHTS, data)
    io.write_json(part / CONFIG, {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank,
        "lora_alpha": alpha, "target_modules": _targets(cfg, modules),
        "base_model_name_or_path": base, "bias": "none", "lora_dropout": 0.0,
        "fan_in_fan_out": False, "inference_mode": True})


class Adapter(NamedTuple):
  """A loaded adapter.

  Attributes:
    params: {..., "w_q": {"w_a", "w_b"}} under the model's paths, float32.
    scale: factor of the product w_a w_b, alpha / rank.
  """

  params: dict[str, Any]
  scale: float


def settings(folder: str | os.PathLike) -> dict[str, Any]:
  """The fields of adapter_config.json.

  Raises:
    ValueError: the file does not exist, or the adapter is not plain LoRA.
  """
  path = epath.Path(folder) / CONFIG
  check(io.is_file(path), f"{path} does not exist; peft:DIR must be the folder"
        " of an adapter, as experiments.export_lora and the peft package write"
        " it")
  fields = io.read_json(path)
  check(isinstance(fields, dict) and fields.get("peft_type") == "LORA",
        f"{path} is not of a LoRA adapter; only those can be read")
  for name, value in _PLAIN.items():
    given = fields.get(name) or value
    check(given == value, f"{path}: {name}={given!r} is not supported, only"
          f" {value!r}")
  rank, alpha = fields.get("r"), fields.get("lora_alpha")
  check(type(rank) is int and rank > 0 and type(alpha) in (int, float)
        and 0 < alpha <= _MOST, f"{path}: r={rank!r:.40} and lora_alpha="
        f"{alpha!r:.40} should be positive numbers, at most {_MOST:g}")
  initial = fields.get("init_lora_weights")
  check(initial in _INITIAL, f"{path}: init_lora_weights={initial!r:.40} is not"
        " supported, because it changes the base model; let peft convert the"
        " adapter (save_pretrained, path_initial_model_for_weight_conversion)")
  return fields


def load(folder: str | os.PathLike, cfg: ModelConfig) -> Adapter:
  """Reads an adapter that `save` or the peft package wrote.

  Args:
    folder: local or gs://.
    cfg: of the base model.

  Raises:
    ValueError: the adapter is another model's, incomplete, or not plain LoRA;
      the message names what does not fit.
  """
  fields, path = settings(folder), epath.Path(folder) / WEIGHTS
  check(io.is_file(path), f"{path} does not exist; give the whole folder")
  stored = _tensors(path)
  rank, tree, used = fields["r"], {}, set()
  leaves = trees.flatten(jax.eval_shape(build(cfg).init, jax.random.key(0)))
  for entry in hf_names.table(cfg):
    names = [f"base_model.model.{entry.name(at).removesuffix('.weight')}.lora_"
             for at in entry.places()]
    there = [n for n in names if f"{n}A.weight" in stored]
    if not there or entry.copy:
      continue
    check(len(there) == len(names), f"{path} adapts {entry.hf} in"
          f" {len(there)} of {len(names)} places; only all or none of them are"
          " supported")
    leaf, (split, lead) = leaves[entry.path], _axes(entry)
    inner, outer = leaf.shape[lead:split], leaf.shape[split:]
    shapes = {"A": (rank, math.prod(inner)), "B": (math.prod(outer), rank)}
    for name, (which, shape) in itertools.product(names, shapes.items()):
      found = stored.get(f"{name}{which}.weight")
      check(found is not None and found.shape == shape,
            f"{path}: {name}{which}.weight is"
            f" {'missing' if found is None else found.shape}, wanted {shape};"
            " the adapter is another model's")
    used |= {f"{n}{which}.weight" for n in names for which in "AB"}
    ab = [np.stack([stored[f"{n}{which}.weight"].T for n in names])
          for which in "AB"]
    node = tree
    for part in entry.path.split("."):
      node = node.setdefault(part, {})
    node["w_a"] = ab[0].reshape(*leaf.shape[:lead], *inner, rank)
    node["w_b"] = ab[1].reshape(*leaf.shape[:lead], rank, *outer)
  unknown = sorted(set(stored) - used)
  check(not unknown, f"{path} has {len(unknown)} tensors that belong to no"
        f" matrix of the model, such as {unknown[:1]}; the adapter is another"
        " model's")
  return Adapter(tree, fields["lora_alpha"] / rank)


def _tensors(path: epath.Path) -> dict[str, np.ndarray]:
  try:
    records = safetensors.deserialize(path.read_bytes())
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path} is truncated or not a safetensors file ({error});"
                     " export it again") from error
  tensors = {}
  for name, record in records:
    check(record["dtype"] in _DTYPES, f"{path}: {name} has dtype"
          f" {record['dtype']}, not one of {', '.join(_DTYPES)}; save it again")
    tensors[name] = np.frombuffer(
        record["data"], hf_files.DTYPES[record["dtype"]]).reshape(
            record["shape"]).astype(np.float32)
    check(bool(np.isfinite(tensors[name]).all()), f"{path}: {name} has a value"
          " that is NaN or infinite; save it again")
  return tensors


def _axes(entry: hf_names.Entry) -> tuple[int, int]:
  """(index of the leaf's first output axis, number of its leading axes)."""
  inputs = hf_names.LAYOUTS[entry.layout][1]  # the stored matrix is [out, in]
  return entry.stacked + len(inputs), entry.stacked


def _modules(cfg: ModelConfig, leaves: dict[str, Any]
             ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """(module, lora_A, lora_B) of every adapted matrix."""
  for entry in hf_names.table(cfg):
    if f"{entry.path}.w_a" not in leaves:
      continue
    a, b = (np.asarray(leaves[f"{entry.path}.{name}"], np.float32)
            for name in ("w_a", "w_b"))
    for at in entry.places():
      yield (entry.name(at).removesuffix(".weight"),
             _flat(a[at], (-1, a.shape[-1])),
             _flat(b[at], (a.shape[-1], -1)))


def _flat(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  return np.ascontiguousarray(array.reshape(shape).T)


def _targets(cfg: ModelConfig, modules: set[str]) -> list[str]:
  """`target_modules` of peft: last parts of names if they suffice.

  Else the whole names, because `gate_proj`, for example, would also match the
  routed experts and the MTP module.
  """
  short = {name.rpartition(".")[2] for name in modules}
  named = {entry.name(at).removesuffix(".weight")
           for entry in hf_names.table(cfg) for at in entry.places()
           if entry.hf.endswith(".weight")}
  meant = {name for name in named if name.rpartition(".")[2] in short}
  return sorted(short if meant == modules else modules)
