"""Imports and exports parameters in Hugging Face's format, piece by piece.

Names and layouts come from `hf_names`, file access from `hf_files`.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.checkpoint import hf_files, hf_names, trees
from r1jax.checkpoint.hf_files import Folder, Planned
from r1jax.checkpoint.hf_names import ROUTER_BIAS, Entry
from r1jax.core.config import check
from r1jax.models import scalar_head
from r1jax.models.config import ModelConfig
from r1jax.models.model import Model, build, shapes
from r1jax.models.scalar_head import SCORE
from r1jax.ops import fp8 as fp8_ops
from r1jax.sharding import processes

# Bytes that are read and converted at a time. Most matrices are transposed, so
# a chunk should fit into the processor's cache.
_CHUNK = 1 << 20
# Largest part of a leaf, in bytes, that is on the host before it is placed on a
# single device; a larger shard of a mesh is there as a whole.
_PIECE = 16 << 20
_LISTED = 100  # most mismatches in an error message

Report = Callable[[int, int], None]


def load(folder: str | os.PathLike, model: Model, shardings: Any = None, *,
         computing: bool = False, report: Report | None = None
         ) -> tuple[Any, jax.Array]:
  """Parameters of `model` and its router bias from a folder.

  Shards are read and placed one by one: beside the parameters the host holds
  only one shard of one leaf and a few chunks, whatever the model's size, and a
  process reads only what its devices hold. A single device gets a leaf in
  pieces of a few megabytes. Values are cast to the dtypes of
  `model.shapes(model, computing)`. Copies of embedding and head (see
  `hf_names`) are compared with the original.

  Args:
    folder: local, with `model.safetensors` or an index and its files, in
      float32, float16, bfloat16, or float8_e4m3 with scales of 128x128 blocks.
    model: a `Model` or `ScalarModel` whose parameters the tensors must be.
    shardings: tree with a sharding for each parameter; None for the default
      device.
    computing: True for a model that is not trained: matrices are cast to the
      compute dtype.
    report: called with (bytes placed so far, bytes in all) after each leaf.

  Returns:
    (params, router_bias_LE float32, replicated over the devices).

  Raises:
    ValueError: tensors are missing, superfluous, of another shape or dtype (the
      message lists them), a copy differs from the original, a value is not
      finite, or a file is damaged.
  """
  files, like = Folder(folder), shapes(model, computing)
  leaves = _leaves(model, like)
  entries = hf_names.table(model.cfg, SCORE in leaves)
  _check(files, entries, leaves, _prediction(model.cfg))
  owners = {e.path: e for e in entries if not e.copy}
  _check_copies(files, [e for e in entries if e.copy], owners)
  places = dict.fromkeys(leaves)
  if shardings is not None:
    places |= trees.flatten(shardings)
    places[ROUTER_BIAS] = _replicated(next(iter(places.values())))
  total, done, made = sum(map(_nbytes, leaves.values())), 0, {}
  for path, leaf in leaves.items():
    made[path] = _place(leaf, places[path], _filler(files, owners, path, leaf),
                        owners.get(path))
    done += _nbytes(leaf)
    if report:
      report(done, total)
  return trees.unflatten(like, made), made[ROUTER_BIAS]


def save(folder: str | os.PathLike, cfg: ModelConfig, params: Any,
         router_bias_LE: Any, *, fields: Mapping[str, Any],
         dtype: str = "bfloat16", shard_bytes: float = 5e9,
         fp8: bool = False, extras: Mapping[str, bytes] | None = None,
         report: Report | None = None) -> None:
  """Writes a folder that `load` and transformers read, whole or not at all.

  The host holds the tensors of one file at a time. The router's bias stays
  float32, everything else is rounded to `dtype`. In a multi-process run all
  processes must call it: they gather one tensor after the other, and process 0
  writes.

  Args:
    folder: local; must not exist or must be empty.
    cfg: of the model.
    params: its parameters.
    router_bias_LE: its router bias.
    fields: the whole config.json (`hf_config.to_hf`).
    dtype: "bfloat16" or "float32".
    shard_bytes: largest size of a file in bytes; a larger tensor gets its own.
    fp8: whether to quantise the projections of all blocks to FP8 with a scale
      per 128x128 block, as in DeepSeek-V3's files.
    extras: {file name: content} of further files.
    report: called with (bytes written so far, bytes in all).

  Raises:
    ValueError: another dtype, a folder with files, or parameters that do not
      match `cfg`.
    OSError: the disk is full or read-only; no partial folder is left.
  """
  check(dtype in ("float32", "bfloat16"),
        f"dtype={dtype!r}: export float32 or bfloat16")
  check(shard_bytes > 0, f"shard_bytes={shard_bytes} must be positive")
  leaves = trees.flatten(params) | {ROUTER_BIAS: router_bias_LE}
  entries = [e for e in hf_names.table(cfg, SCORE in leaves) if e.written]
  _check_leaves(cfg, leaves)
  plan = list(_plan(entries, leaves, dtype, fp8))
  total = sum(t.nbytes for t in plan)
  if fp8:
    fields = dict(fields) | {"quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [fp8_ops.BLOCK, fp8_ops.BLOCK]}}
  tensors = _reported(_tensors(entries, leaves, dtype, fp8), report, total)
  if not processes.is_writer():
    collections.deque(tensors, maxlen=0)
    return
  with hf_files.whole(folder, total) as part:
    hf_files.write(part, hf_files.shards(plan, shard_bytes), tensors)
    hf_files.write_extras(part, fields, extras or {})


def without_absent_mtp(folder: str | os.PathLike, cfg: ModelConfig
                       ) -> ModelConfig:
  """`cfg`, without multi-token prediction if the folder has no such weights.

  transformers writes num_nextn_predict_layers=1 for every DeepSeek-V3, but does
  not save that layer. For a folder without weights `cfg` is unchanged.
  """
  try:
    names = Folder(folder).tensors
  except ValueError:
    return cfg
  if not cfg.n_mtp or any(_prediction(cfg) in name for name in names):
    return cfg
  return dataclasses.replace(cfg, n_mtp=0)


def _prediction(cfg: ModelConfig) -> str:
  """Prefix of the names of the MTP module's tensors."""
  return f"model.layers.{cfg.n_layers}."


def _check(files: Folder, entries: Sequence[Entry], leaves: dict,
           prediction: str) -> None:
  """Raises one ValueError that lists all tensors that do not fit."""
  stored = {name: at.shape for name, at in files.tensors.items()
            if not name.endswith(hf_names.IGNORED)}
  wanted, lines = {}, []
  for entry in entries:
    shape = entry.shape(leaves[entry.path].shape)
    for at in entry.places():
      name = entry.name(at)
      if entry.copy and name not in stored:
        continue
      wanted[name] = shape
      if name in stored and files.tensors[name].dtype == "F8_E4M3":
        wanted[name + hf_files.SCALE] = (
            fp8_ops.scale_shape(shape) if len(shape) == 2 else None)
  for name in sorted(set(stored) & set(wanted)):
    dtype = files.tensors[name].dtype
    scale = name.endswith(hf_files.SCALE)
    allowed = ["F32"] if scale else list(hf_files.DTYPES)
    if dtype not in allowed:
      lines.append(f"different: {name} is stored as {dtype}, wanted"
                   f" {' or '.join(allowed)}")
  lines = trees.mismatches(stored, wanted) + lines
  if lines:
    predicting = any(prediction in line for line in lines)
    raise ValueError(
        f"{files.path} does not fit the model of its config.json:\n"
        f"{trees.listed(lines, _LISTED)}\n"
        "take weights and config.json of the same model" + (
            f"; {prediction}* is the multi-token prediction module, which"
            " num_nextn_predict_layers counts" if predicting else ""))


def _check_copies(files: Folder, copies: Sequence[Entry],
                  owners: dict[str, Entry]) -> None:
  for entry in copies:
    if entry.name() not in files.tensors:
      continue
    owner = owners[entry.path].name()
    rows, width = files.tensors[owner].shape
    step = max(1, _CHUNK // (4 * width))
    for start in range(0, rows, step):
      at = slice(start, min(start + step, rows)), slice(0, width)
      ours, theirs = (files.read(name, at).astype(np.float32)
                      for name in (owner, entry.name()))
      check(np.array_equal(ours, theirs),
            f"{files.path}: {entry.name()} differs from {owner}; the model uses"
            " one tensor for both: remove the copy from index and file if it is"
            " outdated")
    files.forget(owner)
    files.forget(entry.name())


def _filler(files: Folder, owners: dict[str, Entry], path: str, leaf: Any
            ) -> Callable[[tuple[slice, ...]], np.ndarray]:
  """A function from an index to the leaf's values there, on the host."""
  def fill(index):
    shape = [s.stop - s.start for s in index]
    if path not in owners:  # the router bias of a model without one
      return np.zeros(shape, leaf.dtype)
    entry, part = owners[path], np.empty(shape, leaf.dtype)
    k = entry.stacked
    for at in np.ndindex(*shape[:k]):
      name = entry.name([s.start + i for s, i in zip(index, at)])
      _fill(files, name, entry.layout, index[k:], leaf.shape[k:], part[at])
      files.forget(name)
    return part
  return fill


def _fill(files, name, layout, index, inner, target):
  """Reads the part `index` of one tensor into `target`, in chunks of rows."""
  axis = hf_names.LAYOUTS[layout][0][0]
  rows = index[axis]
  other = max(1, 4 * target.size // max(1, rows.stop - rows.start))
  step = max(1, _CHUNK // other)
  for start in range(rows.start, rows.stop, step):
    chunk = list(index)
    chunk[axis] = slice(start, min(start + step, rows.stop))
    values = files.read(name, hf_names.stored_slices(layout, chunk, inner))
    at = [slice(None)] * len(index)
    at[axis] = slice(start - rows.start, chunk[axis].stop - rows.start)
    hf_files.place(target[tuple(at)],
                   hf_names.cut(values, layout, chunk, inner))


def _place(leaf: Any, sharding: Any, fill: Callable, entry: Entry | None
           ) -> jax.Array:
  """The leaf on its devices, one shard or piece after the other.

  `jax.make_array_from_callback` would hold all shards of a leaf at once.
  """
  whole = tuple(slice(0, n) for n in leaf.shape)
  if sharding is None and (entry is None or _nbytes(leaf) <= _PIECE):
    return jnp.asarray(fill(whole))
  if sharding is None:
    made = jnp.zeros(leaf.shape, leaf.dtype)
    for index in _pieces(leaf, entry):
      made = jax.block_until_ready(
          _put(made, fill(index), tuple(s.start for s in index)))
    return made
  devices: dict[tuple, list] = {}
  indices = sharding.addressable_devices_indices_map(leaf.shape)
  for device, index in indices.items():
    index = tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, leaf.shape))
    key = tuple((s.start, s.stop) for s in index)
    devices.setdefault(key, []).append(device)
  parts = []
  for key, holders in devices.items():
    part = fill(tuple(itertools.starmap(slice, key)))
    parts += [jax.device_put(part, device) for device in holders]
    jax.block_until_ready(parts[-len(holders):])  # frees `part` on the host
  return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)


_put = jax.jit(jax.lax.dynamic_update_slice, donate_argnums=0)


def _pieces(leaf: Any, entry: Entry) -> Iterator[tuple[slice, ...]]:
  """Indices of the leaf's parts of at most _PIECE bytes.

  A part is of one stored tensor, and consists of whole rows of it.
  """
  inner = leaf.shape[entry.stacked:]
  axis = hf_names.LAYOUTS[entry.layout][0][0]
  row = math.prod(inner) * leaf.dtype.itemsize // inner[axis]
  step = max(1, _PIECE // row)
  for at in entry.places():
    for start in range(0, inner[axis], step):
      part = [slice(0, n) for n in inner]
      part[axis] = slice(start, min(start + step, inner[axis]))
      yield (*(slice(i, i + 1) for i in at), *part)


def _replicated(sharding: Any) -> Any:
  if isinstance(sharding, jax.sharding.NamedSharding):
    return jax.NamedSharding(sharding.mesh, jax.P())
  return sharding


def _leaves(model: Model, like: Any) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes by path, including the router bias."""
  return trees.flatten(like) | {
      ROUTER_BIAS: jax.eval_shape(model.init_router_bias)}


def _check_leaves(cfg: ModelConfig, leaves: dict) -> None:
  model = scalar_head.over(cfg) if SCORE in leaves else build(cfg)
  lines = trees.mismatches(*(
      {path: tuple(leaf.shape) for path, leaf in tree.items()}
      for tree in (leaves, _leaves(model, shapes(model)))))
  check(not lines, "the parameters are not those of the config:\n"
        + trees.listed(lines))


def _stored_dtype(entry: Entry, dtype: str) -> np.dtype:
  return np.dtype(np.float32 if entry.path == ROUTER_BIAS
                  else jnp.dtype(dtype))


def _plan(entries, leaves, dtype, quantised) -> Iterator[Planned]:
  """The tensors that `_tensors` yields, in the same order."""
  for entry in entries:
    shape = entry.shape(leaves[entry.path].shape)
    for at in entry.places():
      name = entry.name(at)
      if quantised and entry.quantised:
        yield Planned(name, fp8_ops.E4M3, shape)
        yield Planned(name + hf_files.SCALE, np.dtype(np.float32),
                      fp8_ops.scale_shape(shape))
      else:
        yield Planned(name, _stored_dtype(entry, dtype), shape)


def _tensors(entries, leaves, dtype, quantised) -> Iterator[np.ndarray]:
  for entry in entries:
    for at in entry.places():
      stored = hf_files.contiguous(
          hf_names.to_stored(_fetch(leaves[entry.path], at), entry.layout),
          _stored_dtype(entry, dtype))
      if quantised and entry.quantised:
        yield from fp8_ops.quantise(stored)
      else:
        yield stored


def _fetch(leaf: Any, at: tuple[int, ...]) -> np.ndarray:
  """leaf[at] on the host; the rest of the leaf is not copied."""
  if not isinstance(leaf, jax.Array):
    return np.asarray(leaf)[at]
  made = np.zeros(leaf.shape[len(at):], leaf.dtype)
  for shard in leaf.addressable_shards:
    index = [slice(*s.indices(n)[:2])
             for s, n in zip(shard.index, leaf.shape)]
    local = [i - s.start for i, s in zip(at, index)]
    if shard.replica_id == 0 and all(
        s.start <= i < s.stop for i, s in zip(at, index)):
      # On a CPU device this is a view, not a copy.
      data = shard.data
      if shard.device.platform == "cpu":
        data = np.asarray(data)
      hf_files.place(made[tuple(index[len(at):])],
                     np.asarray(data[tuple(local)]))
  return made if leaf.is_fully_addressable else processes.joined(made)


def _reported(tensors, report, total) -> Iterator[np.ndarray]:
  done = 0
  for tensor in tensors:
    done += tensor.nbytes
    if report:
      report(done, total)
    yield tensor


def _nbytes(leaf: Any) -> int:
  return leaf.size * leaf.dtype.itemsize
