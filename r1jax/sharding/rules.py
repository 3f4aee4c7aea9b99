"""Logical axis names to mesh axes: one closed table, strict.

A parameter names its axes once (`("embed", "mlp")`), an activation with an
`act_` prefix: under FSDP the width of a parameter is split over `fsdp` but the
width of an activation is not, so the two must not share a name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Axes = tuple[str | None, ...]

AXES = ("data", "fsdp", "expert", "tensor")
BATCH = ("data", "fsdp", "expert")

RULES: Mapping[str, tuple[str, ...]] = {
    # Parameters.
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "q_rank": (),
    "kv_rank": (),
    "mlp": ("tensor",),
    "experts": ("expert",),
    "expert_mlp": ("tensor",),
    "layers": (),
    # Activations.
    "act_batch": BATCH,
    "act_length": (),
    "act_tokens": BATCH,  # batch x length, flattened
    "act_embed": (),
    "act_heads": ("tensor",),
    "act_kv_heads": ("tensor",),
    "act_mlp": ("tensor",),
    "act_experts": ("expert",),
    "act_vocab": ("tensor",),
}


def spec(axes: Axes) -> PartitionSpec:
  """PartitionSpec of an array whose dimensions have these logical names.

  Raises:
    ValueError: a name is not in RULES, or two dimensions would be split over
      the same mesh axis.
  """
  parts, used = [], {}
  for name in axes:
    if name is None:
      parts.append(None)
      continue
    if name not in RULES:
      raise ValueError(
          f"unknown logical axis {name!r} in {axes}; RULES has"
          f" {', '.join(sorted(RULES))}")
    for mesh_axis in RULES[name]:
      if mesh_axis in used:
        raise ValueError(
            f"{name!r} and {used[mesh_axis]!r} in {axes} both map to the mesh"
            f" axis {mesh_axis!r}; name one of them None")
      used[mesh_axis] = name
    parts.append(_entry(RULES[name]))
  return PartitionSpec(*parts)


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
  """Asks the compiler to keep an activation split as its logical axes say.

  The identity where no mesh is set (`jax.set_mesh`) and inside pmap or a
  `jax.shard_map` over every axis; in a `jax.shard_map` over some, those are
  left out. A dimension that its mesh axes do not divide is left whole.

  Args:
    x: any array.
    axes: one activation name (`act_...`) or None per dimension.

  Raises:
    ValueError: a name is unknown or not an activation's, a mesh axis is used
      twice, or the number of names is not the number of dimensions. All of it
      is checked without a mesh too, so a wrong name fails on one device.
  """
  partition = spec(axes)
  for name in axes:
    if name is not None and not name.startswith("act_"):
      raise ValueError(
          f"{name!r} in {axes} is a parameter's axis; activations take the"
          " act_ names")
  mesh = jax.sharding.get_abstract_mesh()
  free = {a: n for a, n in mesh.shape.items() if a not in mesh.manual_axes}
  fitted = _fit(partition, x.shape, free, axes)
  if not free:
    return x
  if isinstance(x, jax.core.Tracer):
    return jax.lax.with_sharding_constraint(x, fitted)
  return jax.device_put(x, NamedSharding(jax.sharding.get_mesh(), fitted))


def param_shardings(axes_tree: Any, shapes_tree: Any, mesh: Mesh) -> Any:
  """NamedSharding of every parameter.

  A dimension that its mesh axes do not divide is left whole: a small model on
  many devices is replicated there rather than refused.

  Args:
    axes_tree: nested dict of tuples of logical names; None for a leaf that is
      replicated.
    shapes_tree: the same tree of arrays or jax.ShapeDtypeStruct.
    mesh: a mesh with the axes of MeshConfig.

  Returns:
    The tree of `shapes_tree` with a NamedSharding for each leaf.

  Raises:
    ValueError: an unknown name, a mesh axis used twice, or a leaf whose number
      of names is not its number of dimensions; the message names the leaf. Or
      the mesh lacks an axis.
  """
  sizes = dict(mesh.shape)
  if missing := set(AXES) - set(sizes):
    raise ValueError(
        f"the mesh {sizes} has no axis {', '.join(sorted(missing))}; make it"
        " with mesh.make_mesh")

  def leaf(path, axes, shape):
    axes = (None,) * len(shape.shape) if axes is None else axes
    try:
      return NamedSharding(mesh, _fit(spec(axes), shape.shape, sizes, axes))
    except ValueError as error:
      raise ValueError(f"{jax.tree_util.keystr(path)}: {error}") from error

  return jax.tree_util.tree_map_with_path(
      leaf, axes_tree, shapes_tree, is_leaf=_is_axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows split over every axis but `tensor`; later dimensions whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH))


def batch_shards(mesh: Mesh) -> int:
  """Number of parts that `batch_sharding` makes: rows are a multiple of it."""
  return math.prod(mesh.shape[name] for name in BATCH)


def _is_axes(node: Any) -> bool:
  return node is None or isinstance(node, tuple)


def _entry(names: tuple[str, ...]) -> str | tuple[str, ...] | None:
  return names if len(names) > 1 else next(iter(names), None)


def _fit(
    partition: PartitionSpec, shape: tuple[int, ...], sizes: dict[str, int],
    axes: Axes) -> PartitionSpec:
  """`partition` over the axes of `sizes` that divide their dimension."""
  if len(axes) != len(shape):
    raise ValueError(
        f"{len(axes)} logical axes {axes} for an array of shape {shape}; name"
        " every dimension (None leaves one whole)")
  parts = []
  for size, entry in zip(shape, partition, strict=True):
    names = (entry,) if isinstance(entry, str) else entry or ()
    names = tuple(name for name in names if name in sizes)
    ways = math.prod(sizes[name] for name in names)
    parts.append(_entry(names) if size % ways == 0 else None)
  return PartitionSpec(*parts)
