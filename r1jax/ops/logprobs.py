"""Log-probabilities and entropy without the [tokens, vocabulary] logits."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp


def chunked_logprobs(
    hidden_BTD: jax.Array, w_DV: jax.Array, targets_BT: jax.Array, *,
    temperature: float = 1.0, chunk: int = 1024, entropy: bool = True
) -> tuple[jax.Array, jax.Array | None]:
  """log softmax(hidden @ w / temperature) at the targets, and its entropy.

  Tokens are taken in chunks, in the backward pass too, where the logits are
  computed again from the saved log-normaliser: at no time do more than about
  [chunk, V] logits exist. Products run in the dtype of `hidden` and add up in
  float32.

  Args:
    hidden_BTD: states after the final norm, any float dtype.
    w_DV: unembedding.
    targets_BT: int32 in [0, V).
    temperature: divides the logits, as the sampler's does.
    chunk: tokens at a time; at most, and not much fewer.
    entropy: whether to compute it.

  Returns:
    (logprobs_BT, entropy_BT), float32; the entropy, a metric, carries no
    gradient and is None where it was not asked for.

  Raises:
    ValueError: a temperature or chunk that is not positive.
  """
  if temperature <= 0 or chunk < 1:
    raise ValueError(
        f"temperature={temperature} and chunk={chunk} must be positive; greedy"
        " decoding has no log-probabilities")
  b, t, d = hidden_BTD.shape
  n = _chunks(b * t, chunk)
  logprobs, entropies = _logprobs(
      1.0 / temperature, entropy, _split(hidden_BTD.reshape(b * t, d), n),
      w_DV, _split(targets_BT.reshape(b * t), n))

  def join(x):
    return x.T.reshape(-1)[:b * t].reshape(b, t)

  if not entropy:
    return join(logprobs), None
  return join(logprobs), jax.lax.stop_gradient(join(entropies))


def _chunks(tokens: int, chunk: int) -> int:
  """Number of chunks: one that divides the tokens, if one is near."""
  least = max(1, math.ceil(tokens / chunk))
  exact = (n for n in range(least, 2 * least) if tokens % n == 0)
  return next(exact, least)


def _split(x: jax.Array, n: int) -> jax.Array:
  """[X, ...] -> [n, ceil(X / n), ...], chunk i taking tokens i, i + n, ...

  Strided, because tokens are sharded in contiguous blocks over devices: so each
  chunk has a part of every device's tokens.
  """
  x = jnp.pad(x, [(0, -len(x) % n)] + [(0, 0)] * (x.ndim - 1))
  return jnp.moveaxis(x.reshape(-1, n, *x.shape[1:]), 1, 0)


def _logits(scale, h_XD, w_DV):
  return scale * jnp.dot(
      h_XD, w_DV.astype(h_XD.dtype), preferred_element_type=jnp.float32)


def _forward(scale, entropy, hidden, w_DV, targets):
  """Chunks -> log-probabilities, entropies (or zeros), log-normalisers."""

  def one(chunk):
    h_XD, targets_X = chunk
    logits_XV = _logits(scale, h_XD, w_DV)
    top_X = jnp.max(logits_XV, -1)
    shifted_XV = logits_XV - top_X[:, None]
    exp_XV = jnp.exp(shifted_XV)
    sum_X = jnp.sum(exp_XV, -1)
    log_X = jnp.log(sum_X)
    target_X = jnp.take_along_axis(shifted_XV, targets_X[:, None], -1)[:, 0]
    entropy_X = jnp.zeros_like(log_X)
    if entropy:
      entropy_X = log_X - jnp.sum(exp_XV * shifted_XV, -1) / sum_X
    return target_X - log_X, entropy_X, top_X + log_X

  return jax.lax.map(one, (hidden, targets))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logprobs(scale, entropy, hidden, w_DV, targets):
  logprobs, entropies, _ = _forward(scale, entropy, hidden, w_DV, targets)
  return logprobs, entropies


def _save(scale, entropy, hidden, w_DV, targets):
  logprobs, entropies, normalisers = _forward(
      scale, entropy, hidden, w_DV, targets)
  return (logprobs, entropies), (hidden, w_DV, targets, normalisers)


def _backward(scale, entropy, saved, cotangents):
  """d logp / d logits = (1[v = target] - p) / temperature."""
  del entropy  # carries no gradient
  hidden, w_DV, targets, normalisers = saved

  def one(dw_DV, chunk):
    h_XD, targets_X, normalisers_X, g_X = chunk
    p_XV = jnp.exp(_logits(scale, h_XD, w_DV) - normalisers_X[:, None])
    hit_XV = jnp.arange(w_DV.shape[1])[None] == targets_X[:, None]
    d_XV = (g_X * scale)[:, None] * (jnp.where(hit_XV, 1.0, 0.0) - p_XV)
    d_XV = d_XV.astype(h_XD.dtype)
    dw_DV += jnp.dot(h_XD.T, d_XV, preferred_element_type=jnp.float32)
    dh_XD = jnp.dot(d_XV, w_DV.T.astype(h_XD.dtype),
                    preferred_element_type=jnp.float32)
    return dw_DV, dh_XD.astype(h_XD.dtype)

  dw_DV, d_hidden = jax.lax.scan(
      one, jnp.zeros(w_DV.shape, jnp.float32),
      (hidden, targets, normalisers, cotangents[0]))
  return d_hidden, dw_DV.astype(w_DV.dtype), None


_logprobs.defvjp(_save, _backward)
