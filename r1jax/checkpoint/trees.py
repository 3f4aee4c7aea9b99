"""Converts trees of arrays to flat dictionaries with dotted names, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
  """{dotted path, such as `blocks.0.w_up`: leaf}, in the tree's order.

  Raises:
    ValueError: two leaves have the same name, since a key contains a dot.
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
  """A tree with the structure of `like` from leaves by dotted name."""
  return jax.tree.unflatten(
      jax.tree.structure(like), [leaves[name] for name in flatten(like)])


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """A tree of dicts, or lists where keys are 0, 1, ..., from dotted names."""
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
  """Lines about the differences of two dictionaries {name: description}.

  A description is anything that must be equal, such as (shape, dtype).
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
  """The lines indented, one below the other, at most `most` of them."""
  shown = lines[:most]
  if len(lines) > most:
    shown.append(f"and {len(lines) - most} more")
  return "\n".join(f"  {line}" for line in shown)
