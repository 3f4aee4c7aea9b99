"""How a model is computed: dtypes, forms, what the backward pass recomputes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.core.config import check
from r1jax.ops import flash
from r1jax.ops.linear import precise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
  """How a model is computed; the function that it computes stays the same.

  Attributes:
    dtype: of activations and matrix products, `float32` or `bfloat16`.
    precision: of matrix products: `default`, `high`, `highest`, or `auto`,
      which is `highest` for float32, so that results agree on all backends, and
      `default` for bfloat16. With `default` a float32 product is TF32 on a GPU
      and one pass of bfloat16 on a TPU, several times faster.
    param_dtype: dtype of the parameters that are loaded, `float32` or
      `bfloat16`. Trained parameters must be float32 (or see
      `optimizer.rounding`).
    remat: what the backward pass recomputes: `none`, `dots` (all but matrix
      products without batch axes), `full` (whole layers).
    experts: implementation of the routed experts: `auto`, `gmm` (TPU kernel),
      `ragged` (jax.lax.ragged_dot), `blocks`, `dense`. `auto` decodes on a CPU
      by a form without gradients, see `ops/experts.py`.
    exchange: how tokens reach experts on other devices: `auto`, `gather`
      (all-gather), `ragged` (ragged all-to-all).
    attention: implementation of attention in training, and in prefill except
      of long prompts: `auto`, `naive`, `blocks`, `splash` (TPU), `cudnn` (GPU,
      bfloat16, rows of one sequence).
    packed: whether a row may hold several sequences. Training packs its rows
      and needs True, prefill packs short prompts if it is True; `cudnn` needs
      False, which promises that no row has two.
    unroll: layers per iteration of the scan over layers. On a CPU a scan copies
      everything that the backward pass needs; elsewhere it only saves
      compilation time. 0 stands for all layers of a model of up to 8 layers on
      a CPU, else 1.
  """

  dtype: str = "float32"
  precision: str = "auto"
  param_dtype: str = "float32"
  remat: str = "none"
  experts: str = "auto"
  exchange: str = "auto"
  attention: str = "auto"
  packed: bool = True
  unroll: int = 0

  def __post_init__(self):
    for name in ("dtype", "param_dtype"):
      check(getattr(self, name) in ("float32", "bfloat16"),
            f"{name}={getattr(self, name)!r}: choose float32 or bfloat16")
    check(self.precision in PRECISION, f"precision={self.precision!r}: choose"
          f" one of {', '.join(PRECISION)}")
    check(self.remat in REMAT, f"remat={self.remat!r}: choose one of"
          f" {', '.join(REMAT)}")
    forms = ("auto", "gmm", "ragged", "blocks", "dense")
    check(self.experts in forms,
          f"experts={self.experts!r}: choose one of {', '.join(forms)}")
    check(self.exchange in ("auto", "gather", "ragged"),
          f"exchange={self.exchange!r}: choose one of auto, gather, ragged")
    forms = ("auto", *flash.FORMS)
    check(self.attention in forms,
          f"attention={self.attention!r}: choose one of {', '.join(forms)}")
    check(self.unroll >= 0, f"unroll={self.unroll} must not be negative")

  @property
  def products(self) -> jax.lax.Precision:
    """`precision` with `auto` resolved for `dtype`."""
    return precise(PRECISION[self.precision], jnp.dtype(self.dtype))

  def unrolled(self, length: int, backend: str) -> int:
    """Layers per iteration of a scan over `length` layers."""
    shallow = backend == "cpu" and length <= SHALLOW
    return min(self.unroll or (length if shallow else 1), length)


SHALLOW = 8  # most layers that `unroll=0` unrolls on a CPU

PRECISION = {"auto": None, "default": jax.lax.Precision.DEFAULT,
             "high": jax.lax.Precision.HIGH,
             "highest": jax.lax.Precision.HIGHEST}

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
