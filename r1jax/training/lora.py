"""LoRA: adapters of low rank beside frozen parameters.

Hu et al., arXiv:2106.09685: W' = W + (alpha / rank) A B for the projections of
every layer, with A [..., in, rank] random and B [..., rank, out] zero at first.
As in the paper it is activations that are adapted, W x + B A x, in trainer,
sampler and evaluation alike: the model's functions take the joined parameters,
which hold `ops.linear.Adapted` where matrices were. Trained, and with optimizer
state, is the adapter alone, in float32. A reward model's head, which is random
at first, belongs to the adapter as it is.
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

from r1jax.core.config import check
from r1jax.models.scalar_head import SCORE
from r1jax.ops.linear import HIGHEST, Adapted, is_adapted

TARGETS = ("q", "k", "v", "o", "gate", "up", "down", "dq", "uq", "dkv", "ukv")
_STACKS = ("dense_blocks", "mixture_blocks")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
  """Which matrices are adapted, and how.

  Attributes:
    rank: rank of the adapters; 0 trains all parameters instead.
    alpha: the adapter's product A B is scaled by alpha / rank.
    targets: projections by name: q, k, v, o (attention; latent attention has
      dq, uq or q, dkv, ukv, o), gate, up, down (feed-forward, also of the
      shared experts). Names that a model lacks are passed over.
    experts: whether the routed experts' gate, up and down are adapted too, each
      expert by its own adapter.
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
    """Parameters for the model's functions: base and adapter side by side.

    Nothing is copied: the leaves are those of the base and of the adapter.
    """
    return join(self.params, adapter, self.scale)


def join(params: Any, adapter: Any, scale: float) -> Any:
  """`params` with an `Adapted` in place of every matrix that is adapted.

  Adapters add up: of a matrix that has one already, A becomes [A, A'] and B
  [B scale / scale', B'].
  """
  if not isinstance(adapter, dict):
    return adapter  # a head
  if "w_a" not in adapter:
    return params | {name: join(params.get(name), part, scale)
                     for name, part in adapter.items()}
  a, b = adapter["w_a"], adapter["w_b"]
  if isinstance(params, Adapted):
    rank_of_b = a.ndim + b.ndim - 2 - params.ndim
    a = jnp.concatenate([params.a, a], -1)
    b = jnp.concatenate([params.b * (params.scale / scale), b], rank_of_b)
    params = params.w
  return Adapted(params, a, b, scale)


def dense(params: Any) -> Any:
  """The tree in arrays alone: where it has adapters, the float32 sums.

  For what cannot take them: files, and training of all parameters. The model's
  functions can; rounded to bfloat16, these sums lose what those keep.
  """
  def leaf(w):
    if not isinstance(w, Adapted):
      return w
    # The sum lies where the base lies.
    place = w.w.sharding if isinstance(w.w, jax.Array) else None
    return jax.jit(_sum, out_shardings=place)(w)

  return jax.tree.map(leaf, params, is_leaf=is_adapted)


def rounded_away(params: Any, dtype: str) -> float:
  """How much of the adaptation is lost if its sums are stored in a dtype.

  That is |round(W + D) - round(W) - D| / |D| over all adapted matrices, D being
  scale A B: 0 loses nothing; at 1 the error is as large as the adaptation.
  0 if nothing is adapted.
  """
  bits = jnp.finfo(dtype)

  @jax.jit
  def squares(w):
    base, total = w.w.astype(jnp.float32), _sum(w)
    change = total - base
    # XLA may leave out a cast and its way back; this it must compute.
    stored = [jax.lax.reduce_precision(x, bits.nexp, bits.nmant)
              for x in (base, total)]
    return (jnp.sum((stored[1] - stored[0] - change)**2), jnp.sum(change**2))

  lost = whole = 0.0
  for w in filter(is_adapted, jax.tree.leaves(params, is_leaf=is_adapted)):
    one, of = jax.device_get(squares(w))
    lost, whole = lost + float(one), whole + float(of)
  return math.sqrt(lost / whole) if whole else 0.0


def _sum(w: Adapted) -> jax.Array:
  """float32 W + scale A B."""
  # W, A and B have axes [lead, in, out], [lead, in, r] and [lead, r, out].
  lead = range(w.a.ndim + w.b.ndim - 2 - w.ndim)
  product = jax.lax.dot_general(
      w.a, w.b, (((w.a.ndim - 1,), (len(lead),)), (lead, lead)),
      precision=HIGHEST)
  return w.w.astype(jnp.float32) + w.scale * product


def init(key: jax.Array, params: Any, axes: Any, cfg: LoraConfig) -> Any:
  """A new adapter, float32: {..., "w_q": {"w_a", "w_b"}} under the base's path.

  Args:
    key: of A, N(0, 1 / in). B is zero: the adapted model is the base.
    params: of the model, arrays or shapes; joined ones get a further adapter.
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

  adapter = _map(leaf, params, axes, cfg)
  check(bool(adapter), f"the model has none of targets={','.join(cfg.targets)}"
        " (routed experts need experts=True)")
  if SCORE in params:
    # A copy, since updates give it up.
    adapter[SCORE] = jnp.array(params[SCORE], jnp.float32)
  return adapter


def adapter_axes(axes: Any, cfg: LoraConfig) -> Any:
  """Logical axes of the adapter: those of W, the rank whole."""
  def leaf(path, names, _):
    lead, split = _split(path[-1], names)
    return {"w_a": (*names[:split], None),
            "w_b": (*names[:lead], None, *names[split:])}

  head = {SCORE: axes[SCORE]} if SCORE in axes else {}
  return _map(leaf, axes, axes, cfg) | head


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
