"""AdamW with clipping and schedule, computed in float32."""

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
    weight_decay: decoupled, multiplied by the learning rate; on matrices only,
      not on norms and biases.
    clip: largest global norm of the gradient; 0 is no clipping.
    warmup_steps: updates of linear warm-up from lr / warmup_steps. None stands
      for a tenth of the run's updates, at most 200.
    schedule: after the warm-up `constant`, or `cosine` down to
      `final_fraction` * lr at `total_steps`.
    total_steps: updates in all, including the warm-up; only for cosine. 0
      stands for the run's updates.
    final_fraction: final learning rate as a fraction of lr; only for cosine.
    moments: dtype that both moments are stored in, `float32` or `bfloat16`
      (V3: bfloat16).
    zero1: whether to split the moments over the mesh axis `data` too (ZeRO-1).
    rounding: `nearest` trains float32 masters; `stochastic` keeps parameters in
      `param_dtype=bfloat16` without masters and rounds updates stochastically,
      so that parameters move on average as masters would (`ops.rounding`): half
      the memory of the parameters, at the price of noise.
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
          f"b1={self.b1}, b2={self.b2} with moments='bfloat16': the change of a"
          " moment in an update would be rounded away; use at most 0.996")


def scheduled(cfg: OptimizerConfig, updates: int) -> OptimizerConfig:
  """`cfg` with the lengths of the schedule that depend on the run filled in.

  Args:
    cfg: `warmup_steps` and `total_steps` may be None and 0.
    updates: number of updates of the run.
  """
  if cfg.warmup_steps is None:
    cfg = dataclasses.replace(
        cfg, warmup_steps=min(updates // 10, _LONGEST_WARMUP))
  if cfg.schedule == "constant" or cfg.total_steps:
    return cfg
  return dataclasses.replace(
      cfg, total_steps=max(updates, cfg.warmup_steps + 1))


def learning_rate(cfg: OptimizerConfig) -> optax.Schedule:
  """Function from the number of updates done to the next one's learning rate.

  Raises:
    ValueError: `warmup_steps` or `total_steps` was not set (see `scheduled`).
  """
  check(cfg.warmup_steps is not None, "warmup_steps=none: only a run knows its"
        " own length; give a number")
  check(cfg.schedule == "constant" or cfg.total_steps > 0,
        "total_steps=0 of the cosine: only a run knows its own length; give a"
        " number")

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
  """The optax transformation that `cfg` describes: clipping, then AdamW."""
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
  """`inner` with the floats of its state stored in `dtype` between updates."""
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
  """Tree of bools: which leaves are matrices, by their names.

  Matrices are named `w_...` and `embed`. The number of axes does not decide,
  because norms and biases that are stacked over layers have two as well.
  """
  def leaf(path, _):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return name.startswith("w_") or name == "embed"

  return jax.tree_util.tree_map_with_path(leaf, params)
