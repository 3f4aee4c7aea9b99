"""Routed experts without dropped tokens, in five forms with one signature.

`gmm` and `ragged` sort tokens by expert, for JAX's grouped matrix product in
Pallas (TPU) and for `jax.lax.ragged_dot` (GPU). `blocks` sorts them into padded
blocks of one expert each (CPU). `capacity` gives every expert room for equally
many tokens, in one batched product (few tokens on a CPU, without gradients).
`dense` sends every token to every expert (the reference of the tests). XLA
computes `ragged_dot` with all experts for every token on CPUs and on TPU v5e
and v6e. docs/log/core.md and docs/log/rollout.md have the measurements behind
`choose`.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from r1jax.ops import linear
from r1jax.ops.linear import Adapted, gated, times

Matrices = jax.Array | Adapted
# Named scope of the rounds of `capacity`, of which there is mostly one.
ROUNDS = "capacity_rounds"
# `capacity` is for at most FEW tokens an expert, on average.
FEW = 64


def choose(backend: str, layout: str = "train") -> str:
  """The fastest form on a JAX backend (`cpu`, `gpu`, `tpu`).

  `layout` is that of the parameters; without gradients if it is `decode`.
  """
  if backend == "cpu" and layout == "decode":
    return "capacity"
  return {"cpu": "blocks", "tpu": "gmm"}.get(backend, "ragged")


def routed(form: str, x_XD: jax.Array, experts_XA: jax.Array,
           weights_XA: jax.Array, w_gate_EDJ: Matrices, w_up_EDJ: Matrices,
           w_down_EJD: Matrices, *, absent: bool = False,
           ordered: bool = False,
           precision: jax.lax.Precision | None = None,
           interpret: bool = False) -> jax.Array:
  """sum_a weight_a * SwiGLU_{expert_a}(x) for every token; none is dropped.

  Args:
    form: `gmm`, `ragged`, `blocks`, `capacity` or `dense`.
    x_XD: tokens.
    experts_XA: int32 distinct experts of each token.
    weights_XA: float32 gates.
    w_gate_EDJ: gate projections.
    w_up_EDJ: up projections.
    w_down_EJD: down projections.
    absent: whether `experts_XA` may hold E for "no expert": such a pair adds
      nothing to the result.
    ordered: whether tokens come sorted by their only expert (A = 1), so that
      they need not be moved; without gradients, and results of tokens without
      an expert are undefined.
    precision: of the products, see `linear.precise`.
    interpret: run the kernel of `gmm` without a TPU, slowly (for tests).

  Returns:
    [X, D] in the dtype of `x_XD`.

  Raises:
    ValueError: an unknown form.
  """
  grouped = _in_order if ordered else _sorted
  forms = {"ragged": functools.partial(grouped, _ragged),
           "gmm": functools.partial(
               grouped, functools.partial(_gmm, interpret)),
           "blocks": _blocks,
           "capacity": _capacity,
           "dense": _dense}
  if form not in forms:
    raise ValueError(f"experts={form!r}: choose one of {', '.join(forms)}")
  there_XA = experts_XA < w_gate_EDJ.shape[0] if absent else None
  return forms[form](x_XD, experts_XA, weights_XA, there_XA, w_gate_EDJ,
                     w_up_EDJ, w_down_EJD, precision)


def _dense(x_XD, experts_XA, weights_XA, there_XA, w_gate_EDJ, w_up_EDJ,
           w_down_EJD, precision):
  del there_XA  # the entry E matches no expert below
  whole, by_expert = (functools.partial(_einsum, equation) for equation in (
      "XD,EDJ->EXJ", "EXJ,EJD->EXD"))
  gate, up = (times(whole, by_expert, precision, x_XD, w)
              for w in (w_gate_EDJ, w_up_EDJ))
  y_EXD = times(by_expert, by_expert, precision, jax.nn.silu(gate) * up,
                w_down_EJD)
  hit_XAE = experts_XA[..., None] == jnp.arange(w_gate_EDJ.shape[0])[None, None]
  gates_XE = jnp.sum(jnp.where(hit_XAE, weights_XA[..., None], 0.0), 1)
  return jnp.einsum("XE,EXD->XD", gates_XE, y_EXD.astype(jnp.float32),
                    precision=jax.lax.Precision.HIGHEST).astype(x_XD.dtype)


def _einsum(equation, x, w, *, precision, dtype):
  return jnp.einsum(equation, x, w, precision=precision,
                    preferred_element_type=dtype)


def _sorted(product, x_XD, experts_XA, weights_XA, there_XA, w_gate_EDJ,
            w_up_EDJ, w_down_EJD, precision):
  """Sorts tokens by expert for a grouped matrix product."""
  flat = experts_XA.reshape(-1)
  pair_of_slot = jnp.argsort(flat, stable=True)
  slot_of_pair = jnp.argsort(pair_of_slot).reshape(experts_XA.shape)
  x_sorted = _dispatch(x_XD, pair_of_slot, slot_of_pair, there_XA)
  y_sorted = _groups(product, x_sorted, flat, w_gate_EDJ, w_up_EDJ, w_down_EJD,
                     precision)
  return _combine(y_sorted, weights_XA, pair_of_slot, slot_of_pair, there_XA)


def _in_order(product, x_XD, experts_X1, weights_X1, there_X1, w_gate_EDJ,
              w_up_EDJ, w_down_EJD, precision):
  """`_sorted` of what is sorted."""
  del there_X1
  y_XD = _groups(product, x_XD, experts_X1[:, 0], w_gate_EDJ, w_up_EDJ,
                 w_down_EJD, precision)
  return (y_XD.astype(jnp.float32) * weights_X1).astype(y_XD.dtype)


def _groups(product, x_sorted, experts, w_gate_EDJ, w_up_EDJ, w_down_EJD,
            precision):
  """Each row's expert; those without one are behind all groups, in none."""
  sizes_E = jnp.bincount(
      experts, length=w_gate_EDJ.shape[0]).astype(jnp.int32)
  gate, up = (times(product, product, precision, x_sorted, w, sizes_E)
              for w in (w_gate_EDJ, w_up_EDJ))
  return times(product, product, precision, gated(gate, up), w_down_EJD,
               sizes_E)


def _ragged(x_XD, w_EDJ, sizes_E, *, precision, dtype):
  return jax.lax.ragged_dot(x_XD, w_EDJ, sizes_E, precision=precision,
                            preferred_element_type=dtype)


def _gmm(interpret, x_XD, w_EDJ, sizes_E, *, precision, dtype):
  """JAX's Pallas kernel."""
  return linear.kernel(functools.partial(_megablox, interpret, dtype),
                       precision, x_XD, w_EDJ, sizes_E)


def _megablox(interpret, dtype, x_XD, w_EDJ, sizes_E):
  # Importing it takes half a second.
  from jax.experimental.pallas.ops.tpu.megablox import ops as megablox

  rows = len(x_XD)
  tile = 512 if rows >= 4096 else 128
  x_XD = jnp.pad(x_XD, ((0, -rows % tile), (0, 0)))
  y = megablox.gmm(x_XD, w_EDJ, sizes_E, dtype, _tiling(tile), None, None,
                   False, interpret)
  return y[:rows]


@functools.cache
def _tiling(tile):
  """Tile sizes by shape; the products of the gradient have other shapes."""
  return lambda rows, inner, outer: (tile, min(inner, 1024), min(outer, 1024))


def _blocks(x_XD, experts_XA, weights_XA, there_XA, w_gate_EDJ, w_up_EDJ,
            w_down_EJD, precision):
  n_experts, n_pairs = w_gate_EDJ.shape[0], experts_XA.size
  size = _block_size(n_pairs, n_experts)
  n_blocks = n_pairs // size + min(n_experts, n_pairs)
  flat = experts_XA.reshape(-1)
  rank_n, load_E = _ranks(flat, n_experts)
  blocks_E = (load_E + size - 1) // size
  ends_E = jnp.cumsum(blocks_E)
  slot_of_pair = (ends_E - blocks_E)[flat] * size + rank_n
  if there_XA is not None:  # out of bounds: the scatter below drops it
    slot_of_pair = jnp.where(
        there_XA.reshape(-1), slot_of_pair, n_blocks * size)
  # Empty slots hold the index n_pairs, which reads a row of zeros.
  pair_of_slot = jnp.full(n_blocks * size, n_pairs, jnp.int32).at[
      slot_of_pair].set(jnp.arange(n_pairs, dtype=jnp.int32))
  expert_of_block = jnp.minimum(
      jnp.searchsorted(ends_E, jnp.arange(n_blocks), side="right"),
      n_experts - 1)
  slot_of_pair = slot_of_pair.reshape(experts_XA.shape)
  x_blocks = _dispatch(x_XD, pair_of_slot, slot_of_pair, there_XA).reshape(
      n_blocks, size, -1)
  gate, up = (
      times(_by_block, _by_block, precision, x_blocks, w, expert_of_block)
      for w in (w_gate_EDJ, w_up_EDJ))
  y_blocks = times(_by_block, _by_block, precision, gated(gate, up), w_down_EJD,
                   expert_of_block)
  y_slots = y_blocks.reshape(n_blocks * size, -1)
  return _combine(y_slots, weights_XA, pair_of_slot, slot_of_pair, there_XA)


def _ranks(flat_n: jax.Array, n_experts: int) -> tuple[jax.Array, jax.Array]:
  """(each pair's number among those of its expert, pairs of each expert).

  The number of a pair without an expert is undefined.
  """
  hits_nE = (flat_n[:, None] == jnp.arange(n_experts)[None]).astype(jnp.int32)
  rank_n = jnp.take_along_axis(
      jnp.cumsum(hits_nE, 0), flat_n[:, None], 1)[:, 0] - 1
  return rank_n, jnp.sum(hits_nE, 0)


def _block_size(n_pairs: int, n_experts: int) -> int:
  """The largest power of two up to a quarter of the mean load; 8 to 128."""
  size = 8
  while size < 128 and size * 8 <= n_pairs // n_experts:
    size *= 2
  return size


def _capacity(x_XD, experts_XA, weights_XA, there_XA, w_gate_EDJ, w_up_EDJ,
              w_down_EJD, precision):
  """All experts' matrices are read where they are, each once in a round.

  `_blocks` copies those of every block. A token's experts are added up in the
  end, so that the sum does not depend on the round in which each computes.
  """
  n_experts, (n_tokens, a) = w_gate_EDJ.shape[0], experts_XA.shape
  size = capacity(n_tokens, a, n_experts)
  if not size:
    return _blocks(x_XD, experts_XA, weights_XA, there_XA, w_gate_EDJ, w_up_EDJ,
                   w_down_EJD, precision)
  flat_n, n_pairs = experts_XA.reshape(-1), n_tokens * a
  rank_n, load_E = _ranks(flat_n, n_experts)
  product = functools.partial(_einsum, "ESi,Eio->ESo")

  def compute(i, y_nD):
    now_n = (rank_n // size == i) & (flat_n < n_experts)
    slot_n = jnp.where(now_n, flat_n * size + rank_n % size, n_experts * size)
    # As in `_blocks`: empty slots read zeros.
    pair_of_slot = jnp.full(n_experts * size, n_pairs, jnp.int32).at[
        slot_n].set(jnp.arange(n_pairs, dtype=jnp.int32))
    x_ESD = _or_zero(x_XD, pair_of_slot // a).reshape(n_experts, size, -1)
    gate, up = (times(product, product, precision, x_ESD, w)
                for w in (w_gate_EDJ, w_up_EDJ))
    y_ESD = times(product, product, precision, gated(gate, up), w_down_EJD)
    return jnp.where(
        now_n[:, None],
        _or_zero(y_ESD.reshape(n_experts * size, -1), slot_n), y_nD)

  with jax.named_scope(ROUNDS):
    y_nD = jax.lax.fori_loop(
        0, (jnp.max(load_E) + size - 1) // size, compute,
        jnp.zeros((n_pairs, x_XD.shape[1]), x_XD.dtype))
  y_XAD = y_nD.reshape(n_tokens, a, -1).astype(jnp.float32)
  return jnp.sum(y_XAD * weights_XA[..., None], 1).astype(x_XD.dtype)


def capacity(tokens: int, activated: int, experts: int) -> int:
  """Tokens of each expert in a round of the form `capacity`; a power of two.

  Twice the mean load, or three standard deviations above it if that is more.
  0 if the form is not for so many tokens. With more, arithmetic takes the time.
  With fewer, where at most a third of the experts is used, `blocks` moves less:
  it reads, writes and reads again what it uses, and this form reads all.
  """
  mean = tokens * activated / experts
  if mean > FEW or 3 * tokens * activated < experts:
    return 0
  size = 1
  while size < min(tokens, max(2 * mean, mean + 3 * math.sqrt(mean))):
    size *= 2
  return size


def _by_block(x_bsi, w_Eio, expert_of_block, *, precision, dtype):
  return jnp.einsum("bsi,bio->bso", x_bsi,
                    _expert_of_block(precision, w_Eio, expert_of_block),
                    precision=precision, preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _expert_of_block(precision, w_Eio, expert_of_block):
  """Each block's weights; the backward sum over blocks is a matrix product."""
  del precision  # of the backward sum
  return w_Eio[expert_of_block]


def _expert_of_block_forward(precision, w_Eio, expert_of_block):
  return _expert_of_block(precision, w_Eio, expert_of_block), (
      expert_of_block, jnp.arange(len(w_Eio)))


def _expert_of_block_backward(precision, saved, dw_bio):
  expert_of_block, experts_E = saved
  one_hot_Eb = experts_E[:, None] == expert_of_block[None]
  flat = dw_bio.reshape(len(dw_bio), -1)
  dw = jnp.dot(one_hot_Eb.astype(flat.dtype), flat, precision=precision)
  return dw.reshape(len(experts_E), *dw_bio.shape[1:]), None


_expert_of_block.defvjp(_expert_of_block_forward, _expert_of_block_backward)


# The gradients below are gathers too, because the inverse map is known. XLA
# would transpose a gather into a scatter-add, which is slow on every backend
# and serial on a CPU.


@jax.custom_vjp
def _dispatch(x_XD, pair_of_slot, slot_of_pair_XA, there_XA):
  """The row of each slot: its pair's token; zeros in empty slots."""
  del there_XA
  token_of_slot = pair_of_slot // slot_of_pair_XA.shape[1]
  return _or_zero(x_XD, token_of_slot)


def _dispatch_forward(x_XD, pair_of_slot, slot_of_pair_XA, there_XA):
  return (_dispatch(x_XD, pair_of_slot, slot_of_pair_XA, there_XA),
          (slot_of_pair_XA, there_XA))


def _dispatch_backward(saved, dy_slots):
  return jnp.sum(_of_pairs(dy_slots, *saved), axis=1), None, None, None


_dispatch.defvjp(_dispatch_forward, _dispatch_backward)


@jax.custom_vjp
def _combine(y_slots, weights_XA, pair_of_slot, slot_of_pair_XA, there_XA):
  """Weighted sum over each token's experts, accumulated in float32."""
  del pair_of_slot
  y_XAD = _of_pairs(y_slots, slot_of_pair_XA, there_XA).astype(jnp.float32)
  return jnp.sum(y_XAD * weights_XA[..., None], 1).astype(y_slots.dtype)


def _combine_forward(y_slots, weights_XA, pair_of_slot, slot_of_pair_XA,
                     there_XA):
  saved = y_slots, weights_XA, pair_of_slot, slot_of_pair_XA, there_XA
  return _combine(*saved), saved


def _combine_backward(saved, dout_XD):
  y_slots, weights_XA, pair_of_slot, slot_of_pair_XA, there_XA = saved
  weight_of_slot = _or_zero(weights_XA.reshape(-1, 1), pair_of_slot)
  token_of_slot = pair_of_slot // weights_XA.shape[1]
  dout32 = _or_zero(dout_XD, token_of_slot).astype(jnp.float32)
  dy_slots = (dout32 * weight_of_slot).astype(y_slots.dtype)
  y_XAD = _of_pairs(y_slots, slot_of_pair_XA, there_XA).astype(jnp.float32)
  dweights = jnp.sum(y_XAD * dout_XD[:, None].astype(jnp.float32), -1)
  return dy_slots, dweights.astype(weights_XA.dtype), None, None, None


_combine.defvjp(_combine_forward, _combine_backward)


def _of_pairs(slots, slot_of_pair_XA, there_XA):
  """The rows [X, A, D] of each token's pairs; zeros for absent pairs.

  Absent pairs are in no group, so their rows may hold anything.
  """
  rows_XAD = slots[slot_of_pair_XA]
  if there_XA is None:
    return rows_XAD
  return jnp.where(there_XA[..., None], rows_XAD, jnp.zeros((), slots.dtype))


def _or_zero(rows, index):
  """Rows by index; zeros for empty slots, whose index is behind the last."""
  return rows.at[index].get(mode="fill", fill_value=0)
