"""Trees of arrays as flat dictionaries with dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
  """Leaves by dotted path (`blocks.0.w_up`), in the tree's own order.

  Raises:
    ValueError: two leaves share a name (a key that contains a dot).
  """
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  names = [
      jax.tree_util.keystr(path, simple=True, separator=".")
      for path, _ in leaves]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(
        f"two leaves are named {twice[0]!r}; rename the key that has a dot")
  return dict(zip(names, (leaf for _, leaf in leaves)))


def unflatten(like: Any, leaves: Mapping[str, Any]) -> Any:
  """`leaves` by dotted name in the structure of `like`."""
  return jax.tree.unflatten(
      jax.tree.structure(like), [leaves[name] for name in flatten(like)])


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Leaves by dotted name as dicts, and as lists where all keys are numbers."""
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *path, last = name.split(".")
    at = tree
    for key in path:
      at = at.setdefault(key, {})
    at[last] = leaf
  return {key: _listed(value) for key, value in tree.items()}


def _listed(tree: Any) -> Any:
  if not isinstance(tree, dict):
    return tree
  tree = {key: _listed(value) for key, value in tree.items()}
  numbers = [str(number) for number in range(len(tree))]
  return [tree[n] for n in numbers] if sorted(tree) == sorted(numbers) else tree


def mismatches(
    stored: Mapping[str, tuple], wanted: Mapping[str, tuple]) -> list[str]:
  """Lines that say how two dictionaries `name -> description` differ.

  A description is whatever must be equal, such as (shape, dtype).
  """
  missing = [f"missing: {name} {wanted[name]}"
             for name in sorted(set(wanted) - set(stored))]
  extra = [f"superfluous: {name} {stored[name]}"
           for name in sorted(set(stored) - set(wanted))]
  other = [f"different: {name} is {stored[name]}, wanted {wanted[name]}"
           for name in sorted(set(stored) & set(wanted))
           if stored[name] != wanted[name]]
  return missing + extra + other


def listed(lines: list[str], most: int = 20) -> str:
  """The lines indented under each other, cut after `most`."""
  shown = lines[:most]
  if len(lines) > most:
    shown.append(f"and {len(lines) - most} more")
  return "\n".join(f"  {line}" for line in shown)
