"""LoRA: adapters of low rank beside frozen parameters.

Hu et al., arXiv:2106.09685: W' = W + (alpha / rank) A B for the projections of
every layer, with A [..., in, rank] random and B [..., rank, out] zero at first.
Departure: the paper adapts activations, W x + B A x; here the matrices are
merged before the pass, so that one set of functions serves both and the sampler
pays nothing. Trained, and with optimizer state, is the adapter alone; the
gradient of a merged matrix lives only within a backward pass.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from r1jax.core.config import check

TARGETS = ("q", "k", "v", "o", "gate", "up", "down", "dq", "uq", "dkv", "ukv")
_STACKS = ("dense_blocks", "mixture_blocks")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
  """Which matrices are adapted, and how.

  Attributes:
    rank: of the adapters; 0 trains all parameters instead.
    alpha: the product is scaled by alpha / rank.
    targets: projections by name: q, k, v, o (attention; latent attention has
      dq, uq or q, dkv, ukv, o), gate, up, down (feed-forward, also of the
      shared experts). Names that a model lacks are passed over.
    experts: the routed experts' gate, up, down too, an adapter for each.
  """

  rank: int = 0
  alpha: float = 16.0
  targets: tuple[str, ...] = TARGETS
  experts: bool = False

  def __post_init__(self):
    check(self.rank >= 0, f"rank={self.rank} must not be negative")
    check(self.alpha > 0, f"alpha={self.alpha} must be positive")
    unknown = sorted(set(self.targets) - set(TARGETS))
    check(not unknown and len(self.targets) > 0,
          f"targets={','.join(self.targets)}: choose from {', '.join(TARGETS)}")

  @property
  def scale(self) -> float:
    """alpha / rank."""
    return self.alpha / self.rank


@flax.struct.dataclass
class Frozen:
  """The parameters that an adapter adapts.

  Attributes:
    params: of the model; never changed, never donated.
    scale: alpha / rank.
  """

  params: Any
  scale: float = flax.struct.field(pytree_node=False)

  def merge(self, adapter: Any) -> Any:
    """Parameters with the adapter in them, in the dtypes of the base."""
    return merge(self.params, adapter, self.scale)


def make_merge(frozen: Frozen | None) -> Callable[[Any], Any]:
  """Trained parameters -> the model's, compiled; the identity without LoRA.

  The merged matrices lie where those of the base lie; the other leaves are the
  base's own arrays.
  """
  if frozen is None:
    return lambda params: params
  # On a mesh alone: a constraint to one device would bind the result to it.
  meshes = any(isinstance(leaf.sharding, NamedSharding)
               for leaf in jax.tree.leaves(frozen.params))
  places = jax.tree.map(lambda leaf: leaf.sharding, frozen.params)

  def run(adapter):
    # The leaves that stay are left out of the program: it would copy them.
    merged = compiled(_under(frozen.params, adapter), adapter)
    return _over(frozen.params, merged)

  @jax.jit
  def compiled(params, adapter):
    merged = merge(params, adapter, frozen.scale)
    if not meshes:
      return merged
    return jax.lax.with_sharding_constraint(merged, _under(places, adapter))

  return run


def _under(tree: Any, adapter: Any) -> Any:
  """The leaves of `tree` that the adapter adapts, in the shape of it."""
  if "w_a" in adapter:
    return tree
  return {name: _under(tree[name], part) for name, part in adapter.items()}


def _over(tree: Any, leaves: Any) -> Any:
  """`tree` with these leaves in place of its own."""
  if not isinstance(leaves, dict):
    return leaves
  return tree | {name: _over(tree[name], part) for name, part in leaves.items()}


def merge(params: Any, adapter: Any, scale: float) -> Any:
  """W + scale A B where `adapter` has A and B; the other leaves as they are.

  The sum is float32, rounded once to the dtype of W.
  """
  if "w_a" in adapter:
    a, b = adapter["w_a"], adapter["w_b"]
    # W, A and B have axes [lead, in, out], [lead, in, r] and [lead, r, out].
    lead = range(a.ndim + b.ndim - 2 - params.ndim)
    product = jax.lax.dot_general(
        a, b, (((a.ndim - 1,), (len(lead),)), (lead, lead)),
        precision=jax.lax.Precision.HIGHEST)
    merged = params.astype(jnp.float32) + scale * product
    return merged.astype(params.dtype)
  return params | {name: merge(params[name], part, scale)
                   for name, part in adapter.items()}


def init(key: jax.Array, params: Any, axes: Any, cfg: LoraConfig) -> Any:
  """A new adapter, float32: {..., "w_q": {"w_a", "w_b"}} under the base's path.

  Args:
    key: of A, N(0, 1 / in). B is zero: the merged model is the base.
    params: of the model, arrays or shapes.
    axes: their logical axes, `Model.param_axes()`.
    cfg: rank > 0 and the targets.

  Raises:
    ValueError: the model has none of the targets.
  """
  def leaf(path, w, names):
    lead, split = _split(path[-1], names)
    inner, outer = w.shape[lead:split], w.shape[split:]
    a = jax.random.normal(
        jax.random.fold_in(key, zlib.crc32("/".join(path).encode())),
        (*w.shape[:lead], *inner, cfg.rank), jnp.float32)
    return {"w_a": a / math.sqrt(math.prod(inner)),
            "w_b": jnp.zeros((*w.shape[:lead], cfg.rank, *outer), jnp.float32)}

  found = _map(leaf, params, axes, cfg)
  check(bool(found), f"the model has none of targets={','.join(cfg.targets)}"
        " (routed experts need experts=True)")
  return found


def adapter_axes(axes: Any, cfg: LoraConfig) -> Any:
  """Logical axes of the adapter: those of W, the rank whole."""
  def leaf(path, names, _):
    lead, split = _split(path[-1], names)
    return {"w_a": (*names[:split], None),
            "w_b": (*names[:lead], None, *names[split:])}

  return _map(leaf, axes, axes, cfg)


def _map(leaf: Callable[..., Any], tree: Any, axes: Any, cfg: LoraConfig
         ) -> dict[str, Any]:
  """`leaf(path, value, axes)` of every adapted matrix, in a tree of its own."""
  def walk(path, node, names):
    if isinstance(node, dict):
      parts = {k: walk((*path, k), v, names[k]) for k, v in node.items()}
      return {k: v for k, v in parts.items() if v}
    name = path[-1].removeprefix("w_")
    if name == path[-1] or name not in cfg.targets or (
        "experts" in names and not cfg.experts):
      return None
    return leaf(path, node, names)

  return walk((), {k: tree[k] for k in _STACKS if k in tree}, axes)


def _split(name: str, axes: tuple[str | None, ...]) -> tuple[int, int]:
  """Leading (stacked) axes of a matrix, and where its outputs begin."""
  lead = sum(axis in ("layers", "experts") for axis in axes)
  # Only the output projection of attention takes in two axes: heads x width.
  return lead, lead + (2 if name == "w_o" else 1)
