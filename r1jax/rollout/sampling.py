"""Drawing a token from logits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.core.config import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
  """How completions are drawn.

  Attributes:
    temperature: divides the logits; 0 is greedy.
    top_p: smallest set of most likely tokens whose probability reaches this is
      kept and renormalised; 1 keeps all.
    max_new_tokens: longest completion, its end-of-sequence id included.
    record_experts: keep each position's routed experts for replay.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  max_new_tokens: int = 128
  record_experts: bool = False

  def __post_init__(self):
    check(self.temperature >= 0,
          f"temperature={self.temperature} must not be negative")
    check(0 < self.top_p <= 1, f"top_p={self.top_p} must be in (0, 1]")
    check(self.max_new_tokens >= 1,
          f"max_new_tokens={self.max_new_tokens} must be at least 1")


def sample(logits_BV: jax.Array, keys_B: jax.Array, temperature: float,
           top_p: float) -> tuple[jax.Array, jax.Array]:
  """One token per row by inverting the cumulative distribution.

  A single uniform number decides a row, so its key decides it alone.

  Args:
    logits_BV: any float dtype; computed in float32.
    keys_B: one key per row.
    temperature: static; 0 takes the most likely token.
    top_p: static.

  Returns:
    (tokens int32 [B], float32 log-probabilities [B] under the distribution
    drawn from; for greedy, under the untempered one).
  """
  logits32 = logits_BV.astype(jnp.float32)
  if temperature == 0:
    tokens_B = jnp.argmax(logits32, -1).astype(jnp.int32)
    return tokens_B, _gather(jax.nn.log_softmax(logits32, -1), tokens_B)
  logprobs = jax.nn.log_softmax(logits32 / temperature, -1)
  if top_p < 1:
    logprobs = jax.nn.log_softmax(_truncate(logprobs, top_p), -1)
  cumulative = jnp.cumsum(jnp.exp(logprobs), -1)
  u_B1 = jax.vmap(jax.random.uniform)(keys_B)[:, None] * cumulative[:, -1:]
  # The first entry above u: strict, so a token of probability 0 is never drawn.
  tokens_B = jnp.argmax(cumulative > u_B1, -1).astype(jnp.int32)
  return tokens_B, _gather(logprobs, tokens_B)


def _gather(logprobs_BV, tokens_B):
  return jnp.take_along_axis(logprobs_BV, tokens_B[:, None], -1)[:, 0]


def _truncate(logprobs_BV, top_p):
  """-inf outside the nucleus; the most likely token always stays."""
  ordered = -jnp.sort(-logprobs_BV, -1)
  before = jnp.cumsum(jnp.exp(ordered), -1) - jnp.exp(ordered)
  kept = jnp.sum(before < top_p, -1, keepdims=True)
  threshold = jnp.take_along_axis(ordered, kept - 1, -1)
  return jnp.where(logprobs_BV >= threshold, logprobs_BV, -jnp.inf)
