"""LoRA: low-rank adapters of frozen parameters.

Hu et al., arXiv:2106.09685: W' = W + (alpha / rank) A B for the projections of
every layer, with A [..., in, rank] initially random and B [..., rank, out]
initially zero. W' is never formed: trainer, sampler and evaluation compute
x W + (alpha / rank) (x A) B. For that the model's functions take the joined
parameters, with an `ops.linear.Adapted` in place of each adapted matrix. Only
the adapter is trained and has optimizer state; it is float32. A reward model's
head, which is initially random, is a part of the adapter and trained whole.
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
    targets: names of the projections to adapt: q, k, v, o (attention; latent
      attention has dq, uq or q, dkv, ukv, o), gate, up, down (feed-forward,
      also of shared experts). Names that a model lacks are ignored.
    experts: whether to adapt the routed experts' gate, up and down too, with an
      adapter for each expert.
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
  """The frozen base parameters of an adapter.

  Attributes:
    params: of the model; never changed or donated.
    scale: alpha / rank.
  """

  params: Any
  scale: float = flax.struct.field(pytree_node=False)

  def merge(self, adapter: Any) -> Any:
    """Base and adapter joined, for the model's functions; copies no array."""
    return join(self.params, adapter, self.scale)


def join(params: Any, adapter: Any, scale: float) -> Any:
  """`params` with an `Adapted` in place of every matrix that is adapted.

  A second adapter is added to a first one: for a matrix with an adapter A, B
  the new factors are [A, A'] and [B scale / scale', B'].

  Args:
    params: of the base; may have adapters.
    adapter: from `init`, trained or not.
    scale: alpha / rank of `adapter`.
  """
  if not isinstance(adapter, dict):
    return adapter  # the head of a reward model
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
  """`params` with every `Adapted` replaced by its sum, in float32.

  For files and for training of all parameters, which need plain arrays. The
  model's functions take `Adapted`, which keeps what these sums would lose if
  they were rounded to bfloat16.
  """
  def leaf(w):
    if not isinstance(w, Adapted):
      return w
    # The sum gets the sharding of the base.
    place = w.w.sharding if isinstance(w.w, jax.Array) else None
    return jax.jit(_sum, out_shardings=place)(w)

  return jax.tree.map(leaf, params, is_leaf=is_adapted)


def rounded_away(params: Any, dtype: str) -> float:
  """Share of the adaptation that is lost if the sums are stored in `dtype`.

  It is |round(W + D) - round(W) - D| / |D| over all adapted matrices, with D =
  scale A B. At 0 nothing is lost, at 1 the error is as large as the adaptation.
  0 if nothing is adapted.
  """
  bits = jnp.finfo(dtype)

  @jax.jit
  def squares(w):
    base, total = w.w.astype(jnp.float32), _sum(w)
    change = total - base
    # XLA may elide a cast to bfloat16 and back, but not this.
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
  """A new adapter: float32 {..., "w_q": {"w_a", "w_b"}} under the base's paths.

  A is drawn from N(0, 1 / in) and B is zero, so the adapted model first equals
  the base.

  Args:
    key: for A.
    params: of the base, arrays or shapes; may have adapters already.
    axes: their logical axes, `Model.param_axes()`.
    cfg: with rank > 0.

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
    # A copy, because updates donate it.
    adapter[SCORE] = jnp.array(params[SCORE], jnp.float32)
  return adapter


def adapter_axes(axes: Any, cfg: LoraConfig) -> Any:
  """Logical axes of the adapter: those of W; the rank is not split."""
  def leaf(path, names, _):
    lead, split = _split(path[-1], names)
    return {"w_a": (*names[:split], None),
            "w_b": (*names[:lead], None, *names[split:])}

  head = {SCORE: axes[SCORE]} if SCORE in axes else {}
  return _map(leaf, axes, axes, cfg) | head


def _map(leaf: Callable[..., Any], tree: Any, axes: Any, cfg: LoraConfig
         ) -> dict[str, Any]:
  """The tree of `leaf(path, value, axes)` for every matrix to adapt."""
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
  """(number of leading stacked axes, index of the first output axis)."""
  lead = sum(axis in ("layers", "experts") for axis in axes)
  # Only attention's output projection has two input axes: heads and width.
  return lead, lead + (2 if name == "w_o" else 1)
