"""Two tables from logical axis names to mesh axes, for training and decoding.

A parameter declares its logical axes once (`("embed", "mlp")`). Activations use
names with the prefix `act_`: under FSDP the width of a parameter is split over
`fsdp` and the width of an activation is not, so they need different names. A
name that is not in the table is an error.

Training splits parameters over as many devices as it can and gathers them layer
by layer; that costs little, because there are many tokens. A decode step has
few tokens and would spend its time on gathering weights. So there every weight
stays on the devices that use it: experts are split over `expert`; heads and
feed-forward widths over `tensor` and over `fsdp`, whose devices then work on
the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Axes = tuple[str | None, ...]

AXES = ("data", "fsdp", "expert", "sequence", "tensor")

_TRAIN = {
    # Parameters.
    "vocab": ("tensor",),
    "embed": ("fsdp", "expert", "sequence"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "q_rank": (),  # outputs of the down-projections
    "kv_rank": (),
    "q_latent": ("fsdp", "expert", "sequence"),  # inputs of the up-projections
    "kv_latent": ("fsdp", "expert", "sequence"),
    "mlp": ("tensor",),
    "experts": ("expert",),
    "expert_embed": ("fsdp", "sequence"),
    "expert_mlp": ("tensor",),
    "layers": (),
    # Activations.
    "act_batch": ("data", "fsdp", "expert"),
    "act_length": ("sequence",),
    "act_embed": (),
    "act_heads": ("tensor",),
    "act_kv_heads": ("tensor",),
    "act_mlp": ("tensor",),
    "act_vocab": ("tensor",),
    # Widths of parameters that are gathered but for one axis: `gather_part`.
    "act_width": ("fsdp",),
}

_DECODE = _TRAIN | {
    "vocab": ("fsdp", "tensor"),
    "embed": (),
    "heads": ("fsdp", "tensor"),
    "kv_heads": ("fsdp", "tensor"),
    "q_latent": (),
    "kv_latent": (),
    "mlp": ("fsdp", "tensor"),
    "expert_embed": (),
    "expert_mlp": ("fsdp", "tensor"),
    "act_batch": ("data", "expert", "sequence"),
    "act_length": (),
    "act_heads": ("fsdp", "tensor"),
    "act_kv_heads": ("fsdp", "tensor"),
    "act_mlp": ("fsdp", "tensor"),
    "act_vocab": ("fsdp", "tensor"),
    "act_width": (),
}

LAYOUTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "train": _TRAIN, "decode": _DECODE}


def spec(axes: Axes, layout: str = "train") -> PartitionSpec:
  """PartitionSpec of an array whose dimensions have these logical names.

  Args:
    axes: a logical name or None per dimension.
    layout: `train` or `decode`.

  Raises:
    ValueError: an unknown layout or name, or two dimensions would be split over
      the same mesh axis.
  """
  rules = _rules(layout)
  parts, used = [], {}
  for name in axes:
    if name is None:
      parts.append(None)
      continue
    if name not in rules:
      raise ValueError(
          f"unknown logical axis {name!r} in {axes}; the rules have"
          f" {', '.join(sorted(rules))}")
    for mesh_axis in rules[name]:
      if mesh_axis in used:
        raise ValueError(
            f"{name!r} and {used[mesh_axis]!r} in {axes} both map to the mesh"
            f" axis {mesh_axis!r}; name one of them None")
      used[mesh_axis] = name
    parts.append(_entry(rules[name]))
  return PartitionSpec(*parts)


def free_axes() -> dict[str, int]:
  """Axes of the current mesh (`jax.set_mesh`) and their sizes.

  Without the manual axes of a surrounding pmap or `jax.shard_map`; empty if no
  mesh is set.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return {a: n for a, n in mesh.shape.items() if a not in mesh.manual_axes}


def fitted(axes: Axes, shape: tuple[int, ...], sizes: Mapping[str, int],
           layout: str = "train") -> PartitionSpec:
  """`spec`, without the mesh axes that do not divide the shape.

  A dimension is split over the longest prefix of its mesh axes whose product
  divides it: a small model on many devices is replicated rather than refused.

  Args:
    axes: a logical name or None per dimension.
    shape: of the array.
    sizes: mesh axes and their sizes; other axes are left out.
    layout: `train` or `decode`.

  Raises:
    ValueError: as `spec`, or there are more or fewer names than dimensions.
  """
  if len(axes) != len(shape):
    raise ValueError(
        f"{len(axes)} logical axes {axes} for an array of shape {shape}; name"
        " every dimension (None leaves one whole)")
  parts = []
  for size, entry in zip(shape, spec(axes, layout), strict=True):
    names = (entry,) if isinstance(entry, str) else entry or ()
    names = tuple(name for name in names if name in sizes)
    while size % math.prod(sizes[name] for name in names):
      names = names[:-1]
    parts.append(_entry(names))
  return PartitionSpec(*parts)


def constrain(x: jax.Array, axes: Axes, layout: str = "train") -> jax.Array:
  """Sharding constraint on an activation, by its logical axes.

  The identity if no mesh is set (`jax.set_mesh`) and inside pmap or a
  `jax.shard_map` over all axes. Inside a `jax.shard_map` over some axes, those
  are left out of the constraint.

  Args:
    x: any array.
    axes: one activation name (`act_...`) or None per dimension.
    layout: `train` or `decode`.

  Raises:
    ValueError: a name is unknown or not an activation's, a mesh axis is used
      twice, or the number of names is not the number of dimensions. All of this
      is checked without a mesh too, so that errors show on a single device.
  """
  for name in axes:
    if name in _TRAIN and not name.startswith("act_"):
      raise ValueError(
          f"{name!r} in {axes} is a parameter's axis; activations take the"
          " act_ names")
  free = free_axes()
  partition = fitted(axes, x.shape, free, layout)
  if not free:
    return x
  if isinstance(x, jax.core.Tracer):
    return jax.lax.with_sharding_constraint(x, partition)
  return jax.device_put(x, NamedSharding(jax.sharding.get_mesh(), partition))


def gather_part(w: jax.Array, axes: Axes, dtype: str, layout: str = "train"
                ) -> jax.Array:
  """A parameter in its compute dtype, gathered over all mesh axes but one.

  The product that uses it gathers the rest. If both were one step, XLA for TPUs
  would make it an all-reduce of zero-padded arrays, with twice the traffic; the
  same holds for the reduce-scatter of its gradient.

  Args:
    w: the parameter.
    axes: its logical axes.
    dtype: compute dtype of the product that uses it.
    layout: `train` or `decode`.
  """
  if math.prod(free_axes().values()) == 1:
    return w
  wide = ("embed", "q_latent", "kv_latent")
  return constrain(w.astype(dtype), tuple(
      "act_width" if name in wide
      else f"act_{name}" if f"act_{name}" in _TRAIN else None
      for name in axes), layout)


def param_shardings(axes_tree: Any, shapes_tree: Any, mesh: Mesh,
                    layout: str = "train") -> Any:
  """NamedSharding of every parameter.

  Args:
    axes_tree: nested dict of tuples of logical names; None for a leaf that is
      replicated.
    shapes_tree: the same tree of arrays or jax.ShapeDtypeStruct.
    mesh: a mesh with the axes of MeshConfig.
    layout: `train` or `decode`.

  Returns:
    The tree of `shapes_tree` with a NamedSharding for each leaf.

  Raises:
    ValueError: an unknown name, a mesh axis used twice, or a leaf with more or
      fewer names than dimensions; the message names the leaf. Or the mesh lacks
      an axis of `AXES`.
  """
  sizes = dict(mesh.shape)
  if missing := set(AXES) - set(sizes):
    raise ValueError(
        f"the mesh {sizes} has no axis {', '.join(sorted(missing))}; make it"
        " with mesh.make_mesh")

  def leaf(path, axes, shape):
    axes = (None,) * len(shape.shape) if axes is None else axes
    try:
      return NamedSharding(mesh, fitted(axes, shape.shape, sizes, layout))
    except ValueError as error:
      raise ValueError(f"{jax.tree_util.keystr(path)}: {error}") from error

  return jax.tree_util.tree_map_with_path(
      leaf, axes_tree, shapes_tree,
      is_leaf=lambda node: node is None or is_axes(node))


def batch_sharding(mesh: Mesh, layout: str = "train") -> NamedSharding:
  """Sharding of the first dimension by `act_batch`; the others are whole."""
  return NamedSharding(mesh, spec(("act_batch",), layout))


def batch_shards(mesh: Mesh, layout: str = "train") -> int:
  """Number of shards of `batch_sharding`; rows must be a multiple of it."""
  return math.prod(mesh.shape[a] for a in LAYOUTS[layout]["act_batch"])


def _rules(layout: str) -> Mapping[str, tuple[str, ...]]:
  if layout not in LAYOUTS:
    raise ValueError(
        f"layout={layout!r}: choose one of {', '.join(LAYOUTS)}")
  return LAYOUTS[layout]


def is_axes(node: Any) -> bool:
  """Whether a node of a tree is a tuple of logical axis names."""
  return isinstance(node, tuple) and all(
      name is None or isinstance(name, str) for name in node)


def _entry(names: tuple[str, ...]) -> str | tuple[str, ...] | None:
  return names if len(names) > 1 else next(iter(names), None)
