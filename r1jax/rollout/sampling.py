"""Sampling tokens from logits: temperature, top-p, greedy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax.core.config import check

# Vocabulary entries per block; divides the sizes of most published models.
BLOCK = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
  """How completions are sampled.

  Attributes:
    temperature: divides the logits; 0 is greedy.
    top_p: nucleus sampling: the smallest set of most likely tokens whose
      probability reaches this is kept and renormalised; 1 keeps all.
    max_new_tokens: longest completion in tokens, its end-of-sequence id
      included.
    record_experts: whether to record each position's routed experts, for replay
      in the update.
    vocab: only ids below this are sampled, because a model's vocabulary may be
      padded beyond its tokenizer's; 0 for all.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  max_new_tokens: int = 128
  record_experts: bool = dataclasses.field(
      default=False, metadata={"flag": False})
  vocab: int = dataclasses.field(default=0, metadata={"flag": False})

  def __post_init__(self):
    check(self.temperature >= 0,
          f"temperature={self.temperature} must not be negative")
    check(0 < self.top_p <= 1, f"top_p={self.top_p} must be in (0, 1]")
    check(self.max_new_tokens >= 1,
          f"max_new_tokens={self.max_new_tokens} must be at least 1")
    check(self.vocab >= 0, f"vocab={self.vocab} must not be negative")


def sample(logits_BV: jax.Array, keys_B: jax.Array, temperature: float,
           top_p: float, vocab: int = 0) -> tuple[jax.Array, jax.Array]:
  """Samples one token per row by inverting the cumulative distribution.

  Each row uses one uniform number from its own key, so it does not depend on
  the other rows. Rounding never selects a token outside the nucleus or of
  probability 0. The logits are read once for their maximum and once for the
  draw and its log-probability; only a nucleus stores arrays of their size.

  Args:
    logits_BV: any float dtype; computed in float32.
    keys_B: one key per row.
    temperature: static; 0 takes the most likely token.
    top_p: static, in (0, 1].
    vocab: static; ids from here on are never sampled; 0 allows all.

  Returns:
    (tokens int32 [B], float32 log-probabilities [B] under the distribution
    sampled from; if greedy, under that of temperature 1).
  """
  blocks = _blocks(logits_BV, vocab)
  best_B = jnp.max(blocks, (1, 2))
  if temperature == 0:
    weigh = functools.partial(_weights, best_B, 1.0, 0.0)
    tokens_B = _argmax(blocks)
    return tokens_B, _logprobs(blocks, tokens_B, _total(weigh(blocks)),
                               best_B, 1.0)
  weigh = functools.partial(_weights, best_B, temperature)
  least = 0.0
  if top_p < 1:
    least = nucleus(weigh(0.0, blocks), top_p)
  tokens_B, total_B = invert(
      blocks, jax.vmap(jax.random.uniform)(keys_B),
      functools.partial(weigh, least))
  return tokens_B, _logprobs(blocks, tokens_B, total_B, best_B, temperature)


def sample_each(logits_BV: jax.Array, keys_B: jax.Array,
                temperature_B: jax.Array, top_p_B: jax.Array, vocab: int = 0
                ) -> tuple[jax.Array, jax.Array]:
  """As `sample`, with a temperature and a top-p for each row.

  Args:
    logits_BV, keys_B, vocab: as in `sample`.
    temperature_B, top_p_B: float32.
  """
  blocks = _blocks(logits_BV, vocab)
  best_B = jnp.max(blocks, (1, 2))
  greedy_B = temperature_B == 0
  cut_B = (top_p_B < 1) & ~greedy_B
  scale_B = jnp.where(greedy_B, 1.0, temperature_B)
  weigh = functools.partial(_weights, best_B, scale_B)
  least_B = jax.lax.cond(  # the nucleus costs more than everything else
      jnp.any(cut_B), lambda: jnp.where(
          cut_B, nucleus(weigh(0.0, blocks), top_p_B), 0.0),
      lambda: jnp.zeros_like(best_B))
  tokens_B, total_B = invert(
      blocks, jax.vmap(jax.random.uniform)(keys_B),
      functools.partial(weigh, least_B))
  tokens_B = jnp.where(greedy_B, _argmax(blocks), tokens_B)
  return tokens_B, _logprobs(blocks, tokens_B, total_B, best_B, scale_B)


def nucleus(blocks_BKN: jax.Array, top_p: float | jax.Array) -> jax.Array:
  """The least weight that the nucleus keeps (arXiv:1904.09751).

  A token is kept if the likelier tokens together have less than `top_p`: the
  smallest set that reaches `top_p`, with all tokens that tie with its last
  member. The least weight is found by bisection over the 2^30 floats in [0, 1],
  which takes 30 sums; sorting costs far more. A rounded sum of non-negative
  terms never grows when terms are set to 0, so the bisection is consistent.

  Args:
    blocks_BKN: float32 weights in [0, 1], the largest of each row 1; see
      `_blocks`.
    top_p: in (0, 1), a scalar or [B].

  Returns:
    float32 [B].
  """
  goal_B = top_p * _total(blocks_BKN)

  def halve(_, bounds):
    low_B, high_B = bounds
    middle_B = (low_B + high_B) // 2
    above = blocks_BKN > _float(middle_B)[:, None, None]
    enough_B = _total(jnp.where(above, blocks_BKN, 0.0)) < goal_B
    return (jnp.where(enough_B, low_B, middle_B + 1),
            jnp.where(enough_B, middle_B, high_B))

  low_B = jnp.zeros(len(blocks_BKN), jnp.int32)
  one_B = jax.lax.bitcast_convert_type(jnp.ones(len(blocks_BKN)), jnp.int32)
  return _float(jax.lax.fori_loop(0, 30, halve, (low_B, one_B))[1])


def invert(blocks_BKN: jax.Array, u_B: jax.Array,
           weigh: Callable[[jax.Array], jax.Array]
           ) -> tuple[jax.Array, jax.Array]:
  """The first token at which the cumulative weight exceeds u times the total.

  It first selects a block, then a token of it, so that running sums are short:
  fewer roundings and less work per token. Both levels choose among positive
  weights only; rounding can only move the boundary between two of these.

  Args:
    blocks_BKN: float32, what `weigh` makes weights of; see `_blocks`.
    u_B: float32 in [0, 1).
    weigh: weights float32, not negative, with a positive one in every row, of
      blocks [B, K, N] or of one block of each row [B, N]. It is called for
      both, so that the weights of all blocks need not be stored.

  Returns:
    (tokens int32 [B], sums of all weights float32 [B]).
  """
  sums_BK = jnp.sum(weigh(blocks_BKN), -1)
  # A sum of the sums would be merged with them into a second pass.
  total_B = jnp.cumsum(sums_BK, -1)[:, -1]
  block_B, rest_B = _first_above(sums_BK, u_B * total_B)
  inside_BN = weigh(jnp.take_along_axis(
      blocks_BKN, block_B[:, None, None], 1)[:, 0])
  return block_B * BLOCK + _first_above(inside_BN, rest_B)[0], total_B


def _weights(best_B, temperature, least, logits):
  """exp((logits - best) / temperature), 0 if below `least`; logits [B, ...].

  `temperature` and `least` are scalars or [B].
  """
  best, temperature, least = (
      jnp.reshape(x, (-1,) + (1,) * (logits.ndim - 1))
      for x in (best_B, temperature, least))
  # The maximum is subtracted before the division, which could overflow.
  weights = jnp.exp((logits - best) / temperature)
  return jnp.where(weights >= least, weights, 0.0)


def _logprobs(blocks, tokens_B, total_B, best_B, temperature):
  """Log-probabilities of tokens under the distribution of the weights."""
  rows_B = jnp.arange(len(blocks))
  logits_B = blocks[rows_B, tokens_B // BLOCK, tokens_B % BLOCK]
  return (logits_B - best_B) / temperature - jnp.log(total_B)


def _argmax(blocks):
  return jnp.argmax(blocks.reshape(len(blocks), -1), -1).astype(jnp.int32)


def _first_above(weights, at_B):
  """First positive entry at which the running sum exceeds `at_B`.

  It is the last positive entry if rounding leaves none.

  Returns:
    (its index int32 [B], `at_B` minus the sum of the entries before it).
  """
  sums, index = jnp.cumsum(weights, -1), jnp.arange(weights.shape[-1])
  positive = weights > 0
  last = jnp.max(jnp.where(positive, index, 0), -1, keepdims=True)
  first = jnp.min(jnp.where(
      positive & (sums > at_B[:, None]), index, last), -1, keepdims=True)
  before = jnp.where(
      first > 0, jnp.take_along_axis(sums, jnp.maximum(first - 1, 0), -1), 0.0)
  return first[:, 0].astype(jnp.int32), at_B - before[:, 0]


def _blocks(logits_BV, vocab: int):
  """float32 [B, V] -> [B, K, BLOCK]; -inf for ids from `vocab` on and padding.
  """
  logits_BV = logits_BV.astype(jnp.float32)
  rows, size = logits_BV.shape
  if 0 < vocab < size:
    logits_BV = jnp.where(jnp.arange(size) < vocab, logits_BV, -jnp.inf)
  padded = jnp.pad(logits_BV, ((0, 0), (0, -size % BLOCK)),
                   constant_values=-jnp.inf)
  return padded.reshape(rows, -1, BLOCK)


def _total(blocks):
  """[B, blocks, BLOCK] -> [B]; BLOCK is summed last, the fastest on CPUs."""
  return jnp.sum(jnp.sum(blocks, 1), -1)


def _float(bits_B):
  """The float32 with these bits; for bits >= 0 the order is the same."""
  return jax.lax.bitcast_convert_type(bits_B, jnp.float32)
