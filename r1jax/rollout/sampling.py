"""Sampling tokens from logits: temperature, top-p, greedy."""

from __future__ import annotations

import dataclasses

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
  probability 0.

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
  logits_BV = _shifted(logits_BV, vocab) / (temperature or 1.0)
  weights_BV = jnp.exp(logits_BV)
  if temperature == 0:
    tokens_B = jnp.argmax(logits_BV, -1).astype(jnp.int32)
  else:
    if top_p < 1:
      weights_BV = nucleus(weights_BV, top_p)
    tokens_B = invert(weights_BV, jax.vmap(jax.random.uniform)(keys_B))
  return tokens_B, _logprobs(logits_BV, weights_BV, tokens_B)


def sample_each(logits_BV: jax.Array, keys_B: jax.Array,
                temperature_B: jax.Array, top_p_B: jax.Array, vocab: int = 0
                ) -> tuple[jax.Array, jax.Array]:
  """As `sample`, with a temperature and a top-p for each row.

  Args:
    logits_BV, keys_B, vocab: as in `sample`.
    temperature_B, top_p_B: float32.
  """
  greedy_B = temperature_B == 0
  cut_B = (top_p_B < 1) & ~greedy_B
  logits_BV = (_shifted(logits_BV, vocab)
               / jnp.where(greedy_B, 1.0, temperature_B)[:, None])
  whole_BV = jnp.exp(logits_BV)
  weights_BV = jax.lax.cond(  # the nucleus costs more than everything else
      jnp.any(cut_B), lambda: jnp.where(
          cut_B[:, None], nucleus(whole_BV, top_p_B), whole_BV),
      lambda: whole_BV)
  tokens_B = jnp.where(
      greedy_B, jnp.argmax(logits_BV, -1).astype(jnp.int32),
      invert(weights_BV, jax.vmap(jax.random.uniform)(keys_B)))
  return tokens_B, _logprobs(logits_BV, weights_BV, tokens_B)


def _shifted(logits_BV: jax.Array, vocab: int) -> jax.Array:
  """float32 logits minus each row's maximum; -inf for ids from `vocab` on."""
  logits_BV = logits_BV.astype(jnp.float32)
  if 0 < vocab < logits_BV.shape[-1]:
    known_V = jnp.arange(logits_BV.shape[-1]) < vocab
    logits_BV = jnp.where(known_V, logits_BV, -jnp.inf)
  # Before the division by the temperature, which could overflow otherwise.
  return logits_BV - jnp.max(logits_BV, -1, keepdims=True)


def _logprobs(logits_BV, weights_BV, tokens_B):
  """Log-probabilities of the tokens under the weights' distribution."""
  token_logits_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], -1)[:, 0]
  return token_logits_B - jnp.log(_total(_blocks(weights_BV)))


def nucleus(weights_BV: jax.Array, top_p: float | jax.Array) -> jax.Array:
  """The weights with 0 outside the nucleus (arXiv:1904.09751).

  A token is kept if the likelier tokens together have less than `top_p`: the
  smallest set that reaches `top_p`, with all tokens that tie with its last
  member. The least weight kept is found by bisection over the 2^30 floats in
  [0, 1], which takes 30 sums; sorting costs far more. A rounded sum of
  non-negative terms never grows when terms are set to 0, so the bisection is
  consistent.

  Args:
    weights_BV: float32 in [0, 1], the largest of each row 1.
    top_p: in (0, 1), a scalar or [B].

  Returns:
    float32 [B, V].
  """
  blocks = _blocks(weights_BV)
  goal_B = top_p * _total(blocks)

  def halve(_, bounds):
    low_B, high_B = bounds
    middle_B = (low_B + high_B) // 2
    above = blocks > _float(middle_B)[:, None, None]
    enough_B = _total(jnp.where(above, blocks, 0.0)) < goal_B
    return (jnp.where(enough_B, low_B, middle_B + 1),
            jnp.where(enough_B, middle_B, high_B))

  low_B = jnp.zeros(len(weights_BV), jnp.int32)
  one_B = jax.lax.bitcast_convert_type(jnp.ones(len(weights_BV)), jnp.int32)
  _, least_B = jax.lax.fori_loop(0, 30, halve, (low_B, one_B))
  return jnp.where(weights_BV >= _float(least_B)[:, None], weights_BV, 0.0)


def invert(weights_BV: jax.Array, u_B: jax.Array) -> jax.Array:
  """The first token at which the cumulative weight exceeds u times the total.

  It first selects a block, then a token of it, so that running sums are short:
  fewer roundings and less work per token. Both levels choose among positive
  weights only; rounding can only move the boundary between two of these.

  Args:
    weights_BV: float32, not negative, with a positive one in every row.
    u_B: float32 in [0, 1).

  Returns:
    int32 [B].
  """
  blocks = _blocks(weights_BV)
  sums = jnp.sum(blocks, -1)
  block_B, rest_B = _first_above(sums, u_B * jnp.cumsum(sums, -1)[:, -1])
  inside = jnp.take_along_axis(blocks, block_B[:, None, None], 1)[:, 0]
  return block_B * BLOCK + _first_above(inside, rest_B)[0]


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


def _blocks(weights_BV):
  """[B, V] -> [B, blocks, BLOCK], padded with zeros."""
  rows, vocab = weights_BV.shape
  padded = jnp.pad(weights_BV, ((0, 0), (0, -vocab % BLOCK)))
  return padded.reshape(rows, -1, BLOCK)


def _total(blocks):
  """[B, blocks, BLOCK] -> [B]; BLOCK is summed last, the fastest on CPUs."""
  return jnp.sum(jnp.sum(blocks, 1), -1)


def _float(bits_B):
  """The float32 with these bits; for bits >= 0 the order is the same."""
  return jax.lax.bitcast_convert_type(bits_B, jnp.float32)
