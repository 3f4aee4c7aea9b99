"""A LoRA adapter as the peft package stores it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from r1jax.checkpoint import hf_names, trees
from r1jax.core import io
from r1jax.models.config import ModelConfig

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save(folder: str | os.PathLike, cfg: ModelConfig, adapter: Any, *,
         rank: int, alpha: float, base: str = "") -> None:
  """Writes `adapter_model.safetensors` (float32) and `adapter_config.json`.

  The names are those of the model in Hugging Face's format; lora_A is
  [rank, in], lora_B [out, rank], the update alpha / rank * lora_B lora_A. The
  config is written last: a folder with it is whole.

  Args:
    folder: to write to, local or gs://.
    cfg: of the model.
    adapter: from `training.lora.init`, with leaves `w_a` and `w_b`.
    rank: of the adapter.
    alpha: of the adapter.
    base: where the adapted model is, for the reader of the config.

  Raises:
    OSError: the disk is full or read-only.
  """
  folder = epath.Path(folder)
  tensors, modules = {}, set()
  for module, a, b in _modules(cfg, trees.flatten(adapter)):
    modules.add(module)
    tensors[f"base_model.model.{module}.lora_A.weight"] = a
    tensors[f"base_model.model.{module}.lora_B.weight"] = b
  io.write_bytes(folder / WEIGHTS,
                 safetensors.numpy.save(tensors, {"format": "pt"}))
  io.write_json(folder / CONFIG, {
      "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank,
      "lora_alpha": alpha, "target_modules": _targets(cfg, modules),
      "base_model_name_or_path": base, "bias": "none", "lora_dropout": 0.0,
      "fan_in_fan_out": False, "inference_mode": True})


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
  """What peft is to adapt: last parts of names where these say it, else all.

  `gate_proj` would also name the routed experts' and the MTP module's.
  """
  short = {name.rpartition(".")[2] for name in modules}
  named = {entry.name(at).removesuffix(".weight")
           for entry in hf_names.table(cfg) for at in entry.places()
           if entry.hf.endswith(".weight")}
  meant = {name for name in named if name.rpartition(".")[2] in short}
  return sorted(short if meant == modules else modules)
