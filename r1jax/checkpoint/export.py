"""Parameters only, as one safetensors file with the config in a JSON file."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from r1jax.checkpoint import trees
from r1jax.core import io
from r1jax.sharding import processes

_DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16)}


def save_params(
    path: str | os.PathLike, params: Any, metadata: dict[str, Any], *,
    dtype: str = "float32") -> None:
  """Writes `params` to `path` and `metadata` to a .json file of the same name.

  Tensors are named by their dotted paths in the tree. In a multi-process run
  all processes must call it, and process 0 writes; each needs host memory for a
  copy of all parameters.

  Args:
    path: file to write; must end in `.safetensors`.
    params: tree of arrays.
    metadata: JSON-serialisable dictionary: the model's config and provenance.
    dtype: of the stored values, "float32" or "bfloat16".

  Raises:
    ValueError: another dtype, another suffix, or a leaf that is not a float.
    OSError: the disk is full or read-only.
  """
  if dtype not in ("float32", "bfloat16"):
    raise ValueError(f"dtype={dtype!r}: export float32 or bfloat16")
  config_path = _config_path(path)
  leaves = {}
  for name, leaf in trees.flatten(params).items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise ValueError(
          f"{name} has dtype {leaf.dtype}; only floats are exported")
    leaves[name] = np.ascontiguousarray(
        processes.whole(leaf).astype(jnp.dtype(dtype)))

  def write() -> None:
    io.write_json(config_path, metadata)
    # Last: where it is, the other is too.
    io.write_bytes(path, safetensors.numpy.save(leaves))

  processes.from_writer(write)


def load_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """The metadata that `save_params` wrote beside `path`.

  Raises:
    ValueError: the file does not exist, or is not such metadata.
  """
  config_path = _config_path(path)
  if not config_path.exists():
    raise ValueError(
        f"{config_path} does not exist; {path} needs the config that was"
        " written with it")
  metadata = io.read_json(config_path)
  if not isinstance(metadata, dict) or not isinstance(
      metadata.get("model"), dict):
    raise ValueError(f"{config_path} describes no model; take the file that was"
                     f" written with {path}")
  return metadata


def load_params(path: str | os.PathLike, like: Any) -> Any:
  """Parameters from `path` in the tree structure of `like`.

  Values are cast to the dtypes of `like` and placed on its shardings; leaves
  without a sharding go to the default device.

  Args:
    path: file made by `save_params`.
    like: tree of arrays or `jax.ShapeDtypeStruct`.

  Raises:
    ValueError: the file does not exist or is truncated; or tensors are missing,
      superfluous or have another shape (the message lists them).
  """
  arrays = _read(epath.Path(path))
  wanted = trees.flatten(like)
  lines = trees.mismatches(
      {name: array.shape for name, array in arrays.items()},
      {name: tuple(leaf.shape) for name, leaf in wanted.items()})
  if lines:
    raise ValueError(
        f"{path} does not fit this model:\n{trees.listed(lines)}\n"
        "build the model from the config beside the file, or name another file")
  return trees.unflatten(like, {
      name: _place(arrays[name].astype(leaf.dtype),
                   getattr(leaf, "sharding", None))
      for name, leaf in wanted.items()})


def _place(values: np.ndarray, sharding: Any) -> jax.Array:
  if sharding is None:
    return jax.device_put(values)
  return processes.same(values, sharding)


def _config_path(path: str | os.PathLike) -> epath.Path:
  path = epath.Path(path)
  if path.suffix != ".safetensors":
    raise ValueError(f"{path} must end in .safetensors")
  return path.with_suffix(".json")


def _read(path: epath.Path) -> dict[str, np.ndarray]:
  if not path.exists():
    raise ValueError(f"{path} does not exist; name a file made by save_params")
  try:
    records = safetensors.deserialize(path.read_bytes())
  except safetensors.SafetensorError as error:
    raise ValueError(
        f"{path} is truncated or not a safetensors file ({error}); copy or"
        " export it again") from error
  arrays = {}
  for name, record in records:
    if record["dtype"] not in _DTYPES:
      raise ValueError(
          f"{path}: {name} has dtype {record['dtype']}; export float32 or"
          " bfloat16")
    arrays[name] = np.frombuffer(
        record["data"], _DTYPES[record["dtype"]]).reshape(record["shape"])
  return arrays
