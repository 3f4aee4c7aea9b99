"""Which experts a token goes to (DeepSeek-V3, arXiv:2412.19437, eq. 12-20)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def scores(logits: jax.Array, kind: str) -> jax.Array:
  """Affinities s, float32 [..., E]: `sigmoid` (V3) or `softmax` (V2)."""
  logits32 = logits.astype(jnp.float32)
  if kind == "sigmoid":
    return jax.nn.sigmoid(logits32)
  if kind == "softmax":
    return jax.nn.softmax(logits32, -1)
  raise ValueError(f"score={kind!r}: choose sigmoid or softmax")


def select(scores: jax.Array, bias_E: jax.Array | None, n_activated: int,
           n_groups: int = 1, n_limited_groups: int = 1) -> jax.Array:
  """The experts of each token; without gradient.

  A group's score is the sum of its two best biased scores with a bias (V3), or
  its best score without (V2). A token goes to the best `n_activated` experts of
  the best `n_limited_groups` groups.

  Unselected groups are masked with -inf, as in DeepSeek's own code and in
  transformers 5.23; earlier versions filled 0.0, which differs where a kept
  score is negative.

  Args:
    scores: float32 affinities, [..., E].
    bias_E: float32 selection bias, or None.
    n_activated: experts per token.
    n_groups: number of groups: contiguous and of equal size.
    n_limited_groups: number of groups that a token may use.

  Returns:
    int32 [..., A], best first.
  """
  choice = jax.lax.stop_gradient(scores)
  if bias_E is not None:
    choice = choice + _last(jax.lax.stop_gradient(bias_E), choice)
  if n_groups > 1:
    shape = choice.shape
    grouped = choice.reshape(*shape[:-1], n_groups, -1)
    best = jax.lax.top_k(grouped, 1 if bias_E is None else 2)[0].sum(-1)
    kept = jax.lax.top_k(best, n_limited_groups)[1]
    mask = _hits(kept, n_groups).any(-2)
    choice = jnp.where(mask[..., None], grouped, -jnp.inf).reshape(shape)
  return jax.lax.top_k(choice, n_activated)[1].astype(jnp.int32)


def weights(scores: jax.Array, experts: jax.Array, normalize: bool,
            route_scale: float) -> jax.Array:
  """Gate of each chosen expert, float32 [..., A], differentiable in the scores.

  The chosen experts' scores, normalised to sum to one (V3) or not (V2), times
  `route_scale`.
  """
  chosen = jnp.take_along_axis(scores, experts, axis=-1)
  if normalize:
    chosen = chosen / (jnp.sum(chosen, -1, keepdims=True) + 1e-20)
  return chosen * route_scale


def load(experts: jax.Array, keep: jax.Array, n_experts: int) -> jax.Array:
  """Tokens sent to each expert, float32 [E].

  Args:
    experts: int32 [..., A].
    keep: bool [...], False leaves a token out (padding).
    n_experts: E.
  """
  hits = _hits(experts, n_experts) & keep[..., None, None]
  return jnp.sum(hits, tuple(range(hits.ndim - 1))).astype(jnp.float32)


def _hits(indices: jax.Array, n: int) -> jax.Array:
  """Bool [..., n], one-hot of the last axis's entries."""
  numbers = jnp.arange(n).reshape((1,) * indices.ndim + (n,))
  return indices[..., None] == numbers


def _last(x_E: jax.Array, like: jax.Array) -> jax.Array:
  return x_E.reshape((1,) * (like.ndim - 1) + x_E.shape)


def balance_loss(scores_BTE: jax.Array, segments_BT: jax.Array,
                 n_activated: int) -> tuple[jax.Array, jax.Array]:
  """Sequence-wise balance loss without its factor alpha (V3, eq. 17-20).

  For each sequence: sum_i f_i P_i, with f_i = E/(A T) times the number of
  tokens t for which i is among the A best scores s_t, and P_i the mean over t
  of s_it / sum_j s_jt.

  Args:
    scores_BTE: float32 affinities.
    segments_BT: int32; each segment is a sequence, 0 is padding.
    n_activated: A.

  Returns:
    (sum over sequences, number of sequences), float32 scalars.
  """
  b, t, e = scores_BTE.shape
  address = jnp.arange(b)[:, None] * (t + 1) + segments_BT
  n = b * (t + 1)

  def per_sequence(values):
    flat = values.reshape(b * t, -1)
    return jax.ops.segment_sum(flat, address.reshape(-1), num_segments=n)

  best = jax.lax.top_k(jax.lax.stop_gradient(scores_BTE), n_activated)[1]
  hits = _hits(best, e).any(2)
  share = scores_BTE / jnp.sum(scores_BTE, -1, keepdims=True)
  length = per_sequence(jnp.ones((b, t, 1)))
  real = (length[:, 0] > 0) & (jnp.arange(n) % (t + 1) > 0)
  safe = jnp.where(length > 0, length, 1.0)
  f = per_sequence(hits.astype(jnp.float32)) / safe * e / n_activated
  p = per_sequence(share) / safe
  loss = jnp.where(real, jnp.sum(f * p, -1), 0.0)
  return jnp.sum(loss), jnp.sum(real).astype(jnp.float32)
