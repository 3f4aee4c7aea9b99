"""Causal attention within the segments of whole rows, in four forms.

`naive` computes all scores of a layer at once (the reference of the tests, and
the fastest for short rows). `blocks` computes them by blocks in XLA (any
backend). `splash` is JAX's kernel for TPUs, `cudnn` NVIDIA's for GPUs, which
does not support segments here. Only `naive` makes arrays of size [T, S].
docs/log/core.md has the measurements behind `choose`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.core.config import check
from r1jax.ops import attention, flash_blocks, flash_splash
from r1jax.ops.attention import Segments

FORMS = ("naive", "blocks", "splash", "cudnn")

# Largest number of queries and of keys in a block of `blocks` and `splash`.
BLOCK = 512
# Longest row for which `naive` is faster than `blocks` on a CPU.
NAIVE_LENGTH = 512
# Widest head that cuDNN accepts on every GPU that it supports.
CUDNN_WIDTH = 128


def choose(backend: str, length: int, dtype: jnp.dtype, width: int,
           packed: bool) -> str:
  """The form to use on a JAX backend; only the CPU's threshold was measured.

  Args:
    backend: `cpu`, `gpu` or `tpu`.
    length: of a row.
    dtype: of queries, keys and values.
    width: of a key or a value head, the larger one.
    packed: whether a row may hold several segments.
  """
  # The kernels' smallest block is 128 long: shorter rows would be padded.
  if backend == "tpu" and length >= flash_splash.LANES:
    return "splash"
  if (backend == "gpu" and not packed and width <= CUDNN_WIDTH
      and dtype == jnp.bfloat16):
    return "cudnn"
  return "naive" if length <= NAIVE_LENGTH else "blocks"


def attend(form: str, q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array,
           segments: Segments, scale: float, *, block: int = BLOCK,
           packed: bool = True, precision: jax.lax.Precision | None = None
           ) -> jax.Array:
  """softmax(q k^T * scale) v, causal and within segments, on one device.

  A query at index i of its row sees the keys up to index i of its own segment.
  Padding is segment 0. The queries may be a part of the row.

  Args:
    form: one of FORMS.
    q_BNTH: queries; N/K of them share a key head.
    k_BKSH: keys of whole rows.
    v_BKSW: values, of any width.
    segments: of queries and keys.
    scale: multiplies the scores.
    block: most queries and keys of a block, in `blocks` and `splash` (a
      multiple of 128 there).
    packed: whether a row may hold several segments. False promises that each
      row is one segment and then padding. With `cudnn` a row that breaks the
      promise comes out as NaN, and results at padding are meaningless.
    precision: of the products, see `linear.precise`; `cudnn` does not support
      float32.

  Returns:
    [B, N, T, W] in the dtype of the values.

  Raises:
    ValueError: an unknown form, or arguments that the form cannot take.
  """
  check(form in FORMS, f"attention={form!r}: choose one of {', '.join(FORMS)}")
  arrays = q_BNTH, k_BKSH, v_BKSW
  if form == "cudnn":
    return _cudnn(*arrays, segments.queries_BT, scale, packed)
  if form == "naive":
    return attention.attend(
        *arrays, attention.causal_mask(segments), scale, precision)
  blockwise = flash_blocks if form == "blocks" else flash_splash
  return blockwise.attend(*arrays, segments, scale, block, precision)


def _cudnn(q_BNTH, k_BKSH, v_BKSW, segments_BT, scale, packed,
           implementation="cudnn"):
  """Pads heads to one width; the causal mask alone hides padded positions."""
  check(not packed,
        "attention='cudnn' with packed=True: cuDNN attention has no segments"
        " here; choose blocks, or set packed=False for rows of one sequence")
  h, w = q_BNTH.shape[-1], v_BKSW.shape[-1]
  t, s = q_BNTH.shape[2], k_BKSH.shape[2]
  check(t == s, f"attention='cudnn' with {t} queries and {s} keys: it takes"
        " whole rows; choose blocks, or do not split the rows")
  check(q_BNTH.dtype in (jnp.bfloat16, jnp.float16) or implementation == "xla",
        f"attention='cudnn' in {q_BNTH.dtype}: it takes bfloat16 and float16;"
        " set dtype=bfloat16 or choose blocks")
  width = -(-max(h, w) // 8) * 8
  q, k, v = (jnp.pad(x.transpose(0, 2, 1, 3), (
      (0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))
             for x in (q_BNTH, k_BKSH, v_BKSW))
  out = jax.nn.dot_product_attention(
      q, k, v, scale=scale, is_causal=True, implementation=implementation)
  ahead, behind = segments_BT[:, 1:], segments_BT[:, :-1]
  kept_B = jnp.all((ahead == behind) | (ahead == 0), 1)
  out_BNTW = out[..., :w].transpose(0, 2, 1, 3)
  return jnp.where(kept_B[:, None, None, None], out_BNTW, jnp.nan)


def sharded(form: str, q_BNTH: jax.Array, k_BKTH: jax.Array,
            v_BKTW: jax.Array, segments_BT: jax.Array, scale: float,
            spec: PartitionSpec, axes: Mapping[str, int], *,
            block: int = BLOCK, packed: bool = True,
            precision: jax.lax.Precision | None = None) -> jax.Array:
  """`attend` of whole rows to themselves, over the devices of a mesh.

  Each device computes its rows, heads and queries, with the keys of the whole
  rows. Axes of `spec` that are not in `axes` are left out, and a dimension that
  its axes do not divide is not split. Without `axes` this is `attend`. Key
  heads are repeated only as often as needed to split them like query heads.

  Args:
    form: one of FORMS.
    q_BNTH: queries.
    k_BKTH: keys.
    v_BKTW: values.
    segments_BT: int32, 0 is padding.
    scale: multiplies the scores.
    spec: mesh axes of B, N and T, as `rules.spec` gives them.
    axes: sizes of the free mesh axes, see `mesh.Place`.
    block, packed, precision: as in `attend`.

  Returns:
    [B, N, T, W] in the dtype of the values.
  """
  def local(q, k, v, segments):
    return attend(form, q, k, v, segments, scale, block=block, packed=packed,
                  precision=precision)

  segments = Segments.whole(segments_BT)
  if not axes:
    return local(q_BNTH, k_BKTH, v_BKTW, segments)
  rows, heads, length = (
      _fit(entry, size, axes) for entry, size in zip(spec, q_BNTH.shape[:3]))
  ways = math.prod(axes[name] for name in heads)
  repeats = math.lcm(ways, k_BKTH.shape[1]) // k_BKTH.shape[1]
  k, v = (jnp.repeat(x, repeats, 1) for x in (k_BKTH, v_BKTW))
  queries, keys = PartitionSpec(rows, heads, length), PartitionSpec(rows, heads)
  split = jax.shard_map(
      local, axis_names=set(axes), out_specs=queries,
      in_specs=(queries, keys, keys, Segments(
          PartitionSpec(rows, length), PartitionSpec(rows),
          PartitionSpec(length))),
      # Pallas kernels do not tell JAX over which axes their results vary.
      check_vma=False)
  return split(q_BNTH, k, v, segments)


def _fit(entry, size, axes):
  """The free mesh axes of a dimension, or none if they do not divide it."""
  names = (entry,) if isinstance(entry, str) else entry or ()
  names = tuple(name for name in names if name in axes)
  ways = math.prod(axes[name] for name in names)
  return names if size % ways == 0 else ()
