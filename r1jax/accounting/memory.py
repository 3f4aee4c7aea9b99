"""Bytes on one device, counted from shapes and shardings."""

from __future__ import annotations

import math
import re
from typing import Any

import jax

from r1jax.accounting import hlo_text


def shard_bytes(tree: Any) -> int:
  """Bytes of a tree on one device, without padding.

  Args:
    tree: arrays or `jax.ShapeDtypeStruct`; a leaf without a sharding counts in
      full.
  """
  return sum(_leaf(leaf) for leaf in jax.tree.leaves(tree))


def _leaf(leaf: Any) -> int:
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = jax.eval_shape(
        jax.random.key_data, jax.ShapeDtypeStruct((), leaf.dtype))
    width = math.prod(data.shape) * data.dtype.itemsize
  else:
    width = leaf.dtype.itemsize
  sharding = getattr(leaf, "sharding", None)
  shape = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
  return math.prod(shape) * width


def padded_arguments(text: str) -> int:
  """Bytes of a program's arguments in the layouts of its optimised HLO text.

  A TPU stores the two minor dimensions in tiles, for example of 8 x 128, and
  pads them to whole tiles.
  """
  match = re.search(r"entry_computation_layout=\{(\(.*?\))->", text)
  return sum(_padded(*shape) for shape in re.findall(
      r"([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?", match[1]))


def _padded(dtype: str, dims: str, layout: str) -> int:
  sizes = [int(d) for d in dims.split(",") if d]
  order, _, rest = layout.partition(":")
  tile = re.match(r"T\(([\d,]+)\)", rest)
  if tile and sizes:
    tile = [int(t) for t in tile[1].split(",")]
    minor = [int(d) for d in order.split(",")]  # minor to major
    for axis, size in zip(minor, reversed(tile)):
      sizes[axis] = -(-sizes[axis] // size) * size
  elif tile:
    sizes = [math.prod(int(t) for t in tile[1].split(","))]
  return int(math.prod(sizes) * hlo_text.BYTES[dtype])
