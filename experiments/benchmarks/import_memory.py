"""Measures host memory of importing a Hugging Face checkpoint onto a mesh.

  python -m experiments.benchmarks.import_memory --gb=2 --json
  python -m experiments.benchmarks.import_memory --gb=1 --devices=1 --json

A DeepSeek-V3 of the given size with made-up bfloat16 weights is written in
several files and imported by a separate process with eight simulated CPU
devices. With one device it is a Qwen2, which is then saved as a checkpoint.
Meanwhile the process's anonymous resident memory (without mapped files) is
sampled.

  params_mb  the parameters on all devices together
  shard_mb   the largest shard of a parameter on one device
  extra_mb   peak - memory before the import - params_mb
  bound_mb   the limit of extra_mb: shard_mb + --margin_mb
  write_mb   of one device: like extra_mb, while the checkpoint is written
  seconds    duration of the import
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from r1jax.checkpoint.manager import Manager
from r1jax.core.config import check
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.report import tables
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import weights

from .. import command, flagset, start
from . import made_up
from .output import JSON

GB = flags.DEFINE_float(
    "gb", 2.0, "Size of the checkpoint, in GB.", lower_bound=0.01)
FILES = flags.DEFINE_integer(
    "files", 5, "Files of the checkpoint.", lower_bound=1)
MARGIN = flags.DEFINE_float(
    "margin_mb", 1024.0, "Memory that the import may use in addition to the"
    " parameters and one shard, in MiB.")
DEVICES = flags.DEFINE_integer(
    "devices", 8, "Simulated devices.", lower_bound=1)
FOLDER = flags.DEFINE_string(
    "folder", "", "Measure the import of this folder in this process.")
MESH = flagset.define(MeshConfig(data=1, fsdp=2, expert=-1), "mesh")


def deep(gb: float) -> ModelConfig:
  """A dense model of about `gb` GB in bfloat16, of 16 layers."""
  width = 64 * max(1, round((gb * 1e9 / 2 / 256) ** 0.5 / 64))
  return dataclasses.replace(
      presets.get("tiny-dense"), d_model=width, n_layers=16, d_ff=4 * width,
      n_heads=width // 64, n_kv_heads=width // 64, head_dim=64,
      qkv_bias=True, qk_norm=False)


def config(gb: float) -> ModelConfig:
  """A model of about `gb` GB in bfloat16: five layers, four of them MoE."""
  per_width = 2 * 4 * 32 * 3 / 8  # bytes of the experts / width^2
  width = 64 * max(1, round((gb * 1e9 / per_width) ** 0.5 / 64))
  return ModelConfig(
      vocab_size=1024, d_model=width, n_layers=5, n_heads=8, d_ff=width,
      max_position=4096, q_rank=64, kv_rank=64, nope_dim=32, rope_dim=16,
      v_dim=32, n_dense_layers=1, n_experts=32, n_shared=1, n_activated=4,
      d_expert=width // 8, n_groups=4, n_limited_groups=2)


class Peak:
  """Largest anonymous resident memory in its `with` block, in bytes."""

  def __enter__(self) -> Peak:
    self.before = self.most = _anonymous()
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._watch)
    self._thread.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._stop.set()
    self._thread.join()

  def _watch(self):
    while not self._stop.wait(0.002):
      self.most = max(self.most, _anonymous())


def _anonymous() -> int:
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("RssAnon:"):
      return int(line.split()[1]) * 1024
  raise ValueError("/proc/self/status has no RssAnon; run this on Linux")


def measure(folder: str) -> dict[str, float]:
  """Imports and measures; the module describes the names."""
  mesh = make_mesh(MESH.value()) if jax.device_count() > 1 else None
  compute = Compute(param_dtype="bfloat16")
  jax.block_until_ready(jax.device_put(np.ones(8), jax.devices()[-1]))
  began = time.perf_counter()
  with Peak() as peak:
    policy = weights.load(f"hf:{folder}", compute, jax.random.key(0), mesh)
    jax.block_until_ready(policy.params)
  seconds = time.perf_counter() - began
  sizes = [shard.data.nbytes for leaf in jax.tree.leaves(policy.params)
           for shard in leaf.addressable_shards]
  found = {
      "params_mb": sum(sizes) / 2**20, "shard_mb": max(sizes) / 2**20,
      "extra_mb": (peak.most - peak.before - sum(sizes)) / 2**20,
      "bound_mb": max(sizes) / 2**20 + MARGIN.value, "seconds": seconds}
  return found if mesh else found | {
      "write_mb": _written(policy.params) - peak.before / 2**20 - sum(
          sizes) / 2**20}


def _written(params: Any) -> float:
  """Largest anonymous memory, in MiB, while the parameters are saved."""
  with tempfile.TemporaryDirectory(prefix="import_memory") as folder:
    manager = Manager(folder)
    with Peak() as peak:
      manager.save(0, params, {}, donated=())
      manager.wait()
    manager.close()
  return peak.most / 2**20


def _child(folder: str) -> dict[str, float]:
  """Runs `measure` in a new process, whose heap is unused."""
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "PJRT_NPROC": "64", "XLA_FLAGS":
      f"--xla_force_host_platform_device_count={DEVICES.value}"}
  done = subprocess.run(
      [*command.words("benchmarks.import_memory"), *sys.argv[1:],
       f"--folder={folder}", "--json"],
      env=environment, capture_output=True, text=True)
  check(done.returncode == 0, f"the import failed: {done.stderr[-2000:]}")
  return json.loads(done.stdout)


def main() -> None:
  if FOLDER.value:
    results = measure(FOLDER.value)
  else:
    with tempfile.TemporaryDirectory(prefix="import_memory") as folder:
      cfg = deep(GB.value) if DEVICES.value == 1 else config(GB.value)
      made_up.weights(pathlib.Path(folder), cfg, FILES.value)
      results = _child(folder)
  if JSON.value:
    print(json.dumps(results), flush=True)
  else:
    print(tables.render(["measure", "value"], [
        [k, f"{v:,.4g}"] for k, v in results.items()]), flush=True)
  check(results["extra_mb"] < results["bound_mb"],
        f"importing took {results['extra_mb']:.0f} MiB beside the parameters,"
        f" more than {results['bound_mb']:.0f}")


if __name__ == "__main__":
  start.run(main)
