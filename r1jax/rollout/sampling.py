"""Drawing a token from logits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.core.config import check

# Tokens of a block: divides the vocabularies of most published models.
BLOCK = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
  """How completions are drawn.

  Attributes:
    temperature: divides the logits; 0 is greedy.
    top_p: smallest set of most likely tokens whose probability reaches this is
      kept and renormalised; 1 keeps all.
    max_new_tokens: longest completion, its end-of-sequence id included.
    record_experts: keep each position's routed experts for replay.
    vocab: ids below this are drawn: a model's vocabulary may be padded beyond
      its tokenizer's, and what is drawn there has no text; 0 for all.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  max_new_tokens: int = 128
  record_experts: bool = False
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
  """One token per row by inverting the cumulative distribution.

  A single uniform number decides a row, so its key decides it alone. Whatever
  the rounding, no token is drawn that is not kept or has no probability.

  Args:
    logits_BV: any float dtype; computed in float32.
    keys_B: one key per row.
    temperature: static; 0 takes the most likely token.
    top_p: static.
    vocab: static; ids from here on are never drawn, unless it is 0.

  Returns:
    (tokens int32 [B], float32 log-probabilities [B] under the distribution
    drawn from; for greedy, under the untempered one).
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
  """As `sample`, with a temperature and a top-p of each row's own.

  Args:
    logits_BV, keys_B, vocab: as there.
    temperature_B, top_p_B: float32.
  """
  greedy_B = temperature_B == 0
  cut_B = (top_p_B < 1) & ~greedy_B
  logits_BV = (_shifted(logits_BV, vocab)
               / jnp.where(greedy_B, 1.0, temperature_B)[:, None])
  whole_BV = jnp.exp(logits_BV)
  weights_BV = jax.lax.cond(  # a nucleus costs more than all the rest
      jnp.any(cut_B), lambda: jnp.where(
          cut_B[:, None], nucleus(whole_BV, top_p_B), whole_BV),
      lambda: whole_BV)
  tokens_B = jnp.where(
      greedy_B, jnp.argmax(logits_BV, -1).astype(jnp.int32),
      invert(weights_BV, jax.vmap(jax.random.uniform)(keys_B)))
  return tokens_B, _logprobs(logits_BV, weights_BV, tokens_B)


def _shifted(logits_BV: jax.Array, vocab: int) -> jax.Array:
  """float32 logits of the ids that are drawn, the largest of a row 0."""
  logits_BV = logits_BV.astype(jnp.float32)
  if 0 < vocab < logits_BV.shape[-1]:
    known_V = jnp.arange(logits_BV.shape[-1]) < vocab
    logits_BV = jnp.where(known_V, logits_BV, -jnp.inf)
  # Before the division by the temperature, so that none overflows by it.
  return logits_BV - jnp.max(logits_BV, -1, keepdims=True)


def _logprobs(logits_BV, weights_BV, tokens_B):
  """Of the tokens, under the distribution of the weights."""
  token_logits_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], -1)[:, 0]
  return token_logits_B - jnp.log(_total(_blocks(weights_BV)))


def nucleus(weights_BV: jax.Array, top_p: float | jax.Array) -> jax.Array:
  """The weights with 0 outside the nucleus.

  A token is kept if all that are likelier together have less than `top_p`: the
  smallest set that reaches it, and with its last member every other of the same
  weight. The least weight kept is found by bisection over the 2^30 floats of
  [0, 1], 30 sums where sorting costs far more. Sums of one program over ever
  fewer terms never grow, rounded or not, so the bisection is exact in what it
  compares.

  Args:
    weights_BV: float32 in [0, 1], the largest of each row 1.
    top_p: in (0, 1), of all rows or [B].
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
  """The first token up to which the weights exceed u times their sum.

  In two levels, a block and then a token of it: so no sum has many terms to
  round, and little is done for each token. Both levels choose among positive
  weights only; all that rounding can move is the edge between two of these.

  Args:
    weights_BV: float32, not negative, in every row some positive.
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

  The last positive one if rounding let none.

  Returns:
    (its index int32 [B], what of `at_B` the entries before it leave).
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
  """[B, blocks, BLOCK] -> [B]; the wide axis last, which CPUs do fastest."""
  return jnp.sum(jnp.sum(blocks, 1), -1)


def _float(bits_B):
  """The float32 with these bits; ordered alike from 0 on."""
  return jax.lax.bitcast_convert_type(bits_B, jnp.float32)
