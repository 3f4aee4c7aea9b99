"""AdamW as the project uses it, computed in float32 whatever is stored."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from r1jax.core.config import check

_LONGEST_WARMUP = 200  # updates, unless more are asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """AdamW, clipping and schedule.

  Attributes:
    lr: peak learning rate.
    b1, b2, eps: AdamW's beta 1, beta 2 and epsilon.
    weight_decay: decoupled, times the learning rate, on matrices only (not on
      norms and biases).
    clip: largest global norm of the gradient; 0 is no clipping.
    warmup_steps: updates of linear growth from lr / warmup_steps. None is a
      tenth of the run's, 200 at most.
    schedule: after the warm-up `constant`, or `cosine` down to
      `final_fraction` * lr at `total_steps`.
    total_steps: updates in all, warm-up included; cosine only. 0 is all of the
      run's.
    final_fraction: last rate as a fraction of lr; cosine only.
    moments: dtype that both moments are stored in, `float32` or `bfloat16`
      (V3: bfloat16).
    zero1: split the moments over the mesh's replicas (`data`) as well.
    rounding: `nearest` trains float32 masters; `stochastic` keeps parameters in
      `param_dtype=bfloat16` without masters and rounds updates up or down by
      chance, so that they move on average as masters would (`ops.rounding`):
      half the memory, at the price of noise.
  """

  lr: float
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip: float = 1.0
  warmup_steps: int | None = 0
  schedule: str = "constant"
  total_steps: int = 0
  final_fraction: float = 0.1
  moments: str = "float32"
  zero1: bool = False
  rounding: str = "nearest"

  def __post_init__(self):
    check(self.lr > 0, f"lr={self.lr} must be positive")
    for name in ("b1", "b2"):
      value = getattr(self, name)
      check(0 <= value < 1, f"{name}={value} must be in [0, 1)")
    for name in ("weight_decay", "clip", "warmup_steps", "final_fraction"):
      value = getattr(self, name)
      check(value is None or value >= 0, f"{name}={value} must not be negative")
    check(self.eps > 0, f"eps={self.eps} must be positive")
    check(self.schedule in ("constant", "cosine"),
          f"schedule={self.schedule!r}: choose constant or cosine")
    check(self.schedule == "constant" or not self.total_steps
          or self.total_steps > (self.warmup_steps or 0),
          f"total_steps={self.total_steps} of the cosine must exceed"
          f" warmup_steps={self.warmup_steps}")
    check(self.moments in ("float32", "bfloat16"),
          f"moments={self.moments!r}: choose float32 or bfloat16")
    check(self.rounding in ("nearest", "stochastic"),
          f"rounding={self.rounding!r}: choose nearest or stochastic")
    # Half of bfloat16's step is 2^-9 of a value: less would be rounded away.
    check(self.moments == "float32" or max(self.b1, self.b2) <= 1 - 2**-8,
          f"b1={self.b1}, b2={self.b2} with moments='bfloat16': what a moment"
          " changes by in an update would be rounded away; use at most 0.996")


def scheduled(cfg: OptimizerConfig, updates: int) -> OptimizerConfig:
  """The config with the lengths of its schedule, where they are the run's.

  A run that ends within the warm-up never comes to the cosine.
  """
  if cfg.warmup_steps is None:
    cfg = dataclasses.replace(
        cfg, warmup_steps=min(updates // 10, _LONGEST_WARMUP))
  if cfg.schedule == "constant" or cfg.total_steps:
    return cfg
  return dataclasses.replace(
      cfg, total_steps=max(updates, cfg.warmup_steps + 1))


def learning_rate(cfg: OptimizerConfig) -> optax.Schedule:
  """Updates done so far -> learning rate of the next, float32.

  Raises:
    ValueError: a warm-up or a cosine without a length (see `scheduled`).
  """
  check(cfg.warmup_steps is not None, "warmup_steps=none: only a run knows its"
        " own length; give it")
  check(cfg.schedule == "constant" or cfg.total_steps > 0,
        "total_steps=0 of the cosine: only a run knows its own length; give it")

  def schedule(count):
    count = jnp.asarray(count, jnp.float32)
    warm = jnp.minimum(1.0, (count + 1.0) / max(cfg.warmup_steps, 1))
    if cfg.schedule == "constant":
      return cfg.lr * warm
    length = cfg.total_steps - cfg.warmup_steps
    done = jnp.clip((count - cfg.warmup_steps) / length, 0.0, 1.0)
    share = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    return cfg.lr * warm * (
        cfg.final_fraction + (1.0 - cfg.final_fraction) * share)

  return schedule


def make_optimizer(cfg: OptimizerConfig) -> optax.GradientTransformation:
  """The transformation of gradients that `cfg` describes."""
  parts = []
  if cfg.clip:
    parts.append(optax.clip_by_global_norm(cfg.clip))
  adamw = optax.adamw(
      learning_rate(cfg), cfg.b1, cfg.b2, cfg.eps,
      weight_decay=cfg.weight_decay, mask=matrices)
  parts.append(adamw if cfg.moments == "float32" else
               _stored(adamw, cfg.moments))
  return optax.chain(*parts)


def _stored(inner: optax.GradientTransformation, dtype: str
            ) -> optax.GradientTransformation:
  """`inner` with its state's floats kept in `dtype` between updates."""
  def cast(tree, dtype):
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating)
        else x, tree)

  def update(updates, state, params=None):
    updates, state = inner.update(updates, cast(state, jnp.float32), params)
    return updates, cast(state, dtype)

  return optax.GradientTransformation(
      lambda params: cast(inner.init(params), dtype), update)


def matrices(params: Any) -> Any:
  """Tree of bools: the leaves that are matrices, by their name.

  The models name matrices `w_...` and `embed`; norms and biases, stacked over
  layers, have two axes as well, so the rank does not tell.
  """
  def leaf(path, _):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return name.startswith("w_") or name == "embed"

  return jax.tree_util.tree_map_with_path(leaf, params)
