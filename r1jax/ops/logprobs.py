"""Log-probabilities, entropy and divergences without [tokens, V] logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.ops.linear import precise
from r1jax.sharding import rules


class Plan(NamedTuple):
  """Static arguments.

  Attributes:
    scale: 1 / temperature.
    chunk: most tokens per chunk on a device.
    entropy: whether to compute the entropy.
    precision: of the products.
    tokens: mesh axes of rows and of positions; None without a mesh.
    vocab: mesh axes that the vocabulary is split over.
    width: mesh axes that the gradient of the unembedding is reduce-scattered
      over.
  """

  scale: float
  chunk: int
  entropy: bool
  precision: jax.lax.Precision
  tokens: PartitionSpec | None = None
  vocab: tuple[str, ...] = ()
  width: tuple[str, ...] = ()


def chunked_logprobs(
    hidden_BTD: jax.Array, w_DV: jax.Array, targets_BT: jax.Array, *,
    temperature: float = 1.0, chunk: int = 1024, entropy: bool = True,
    precision: jax.lax.Precision | None = None,
    axes: Mapping[str, int] | None = None
) -> tuple[jax.Array, jax.Array | None]:
  """log softmax(hidden @ w / temperature) at the targets, and its entropy.

  Tokens are processed in chunks, so that at most about [chunk, V] logits exist
  at a time. The backward pass recomputes them, and the probabilities from the
  saved log-normaliser. Products take operands in the dtype of `hidden` and
  accumulate in float32.

  On a mesh every device processes its own tokens with its own columns of the
  vocabulary. The other dimension of the unembedding is gathered once, and its
  gradient is summed over the devices once, after the last chunk.

  Args:
    hidden_BTD: states after the final norm, any float dtype.
    w_DV: unembedding.
    targets_BT: int32 in [0, V).
    temperature: divides the logits, as the sampler's does.
    chunk: most tokens per chunk on each device; chunks are at least about half
      of that, so that they divide the tokens evenly.
    entropy: whether to compute the entropy.
    precision: of the products, see `linear.precise`.
    axes: free axes of the current mesh, see `mesh.Place`; None on one device.

  Returns:
    (logprobs_BT, entropy_BT), float32. The entropy (nats) is a metric and has
    no gradient; it is None if it was not asked for.

  Raises:
    ValueError: a temperature or chunk that is not positive.
  """
  plan = _plan(temperature, chunk, entropy, precision, axes, hidden_BTD, w_DV)
  logprobs_BT, entropy_BT = _logprobs(plan, hidden_BTD, w_DV, targets_BT)
  return logprobs_BT, jax.lax.stop_gradient(entropy_BT) if entropy else None


def _plan(temperature, chunk, entropy, precision, axes, hidden_BTD, w_DV
          ) -> Plan:
  if temperature <= 0 or chunk < 1:
    raise ValueError(
        f"temperature={temperature} and chunk={chunk} must be positive; greedy"
        " decoding has no log-probabilities")
  plan = Plan(1.0 / temperature, chunk, entropy,
              precise(precision, hidden_BTD.dtype))
  sizes = {a: n for a, n in (axes or {}).items() if n > 1}
  if not sizes:
    return plan
  tokens = rules.fitted(
      ("act_batch", "act_length"), hidden_BTD.shape[:2], sizes)
  split = [name for entry in tokens for name in _names(entry)]
  width, vocab = (_names(entry) for entry in rules.fitted(
      ("embed", "vocab"), w_DV.shape, sizes))
  return plan._replace(tokens=tokens, vocab=vocab, width=tuple(
      name for name in width if name in split))


def _names(entry) -> tuple[str, ...]:
  return (entry,) if isinstance(entry, str) else tuple(entry or ())


def _chunks(tokens: int, chunk: int) -> int:
  """Number of chunks: if possible a divisor of `tokens`, below twice the least.
  """
  least = max(1, math.ceil(tokens / chunk))
  exact = (n for n in range(least, 2 * least) if tokens % n == 0)
  return next(exact, least)


def _split(x: jax.Array, n: int) -> jax.Array:
  """[X, ...] -> [n, ceil(X / n), ...], padded with zeros."""
  x = jnp.pad(x, [(0, -len(x) % n)] + [(0, 0)] * (x.ndim - 1))
  return x.reshape(n, -1, *x.shape[1:])


def _join(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """[n, X / n, ...] -> `shape`, the padding cut off."""
  x = x.reshape(-1, *x.shape[2:])
  return x[:math.prod(shape) // math.prod(x.shape[1:])].reshape(shape)


def _dot(plan, a, b):
  return jnp.dot(a, b, precision=plan.precision,
                 preferred_element_type=jnp.float32)


def _logits(plan, h_XD, w_DV):
  return plan.scale * _dot(plan, h_XD, w_DV)


def _hits(plan, targets_X, columns):
  """Bool [X, V], one-hot of the target among this device's columns."""
  first = jax.lax.axis_index(plan.vocab) * columns if plan.vocab else 0
  return (first + jnp.arange(columns))[None] == targets_X[:, None]


def _total(x, axes):
  return jax.lax.psum(x, axes) if axes else x


def _normaliser(plan, logits_XV):
  """([X] largest logits, [X] log-normalisers), over the whole vocabulary."""
  top_X = jnp.max(logits_XV, -1)
  if plan.vocab:
    top_X = jax.lax.pmax(top_X, plan.vocab)
  sum_X = jnp.sum(jnp.exp(logits_XV - top_X[:, None]), -1)
  return top_X, top_X + jnp.log(_total(sum_X, plan.vocab))


def _forward(plan: Plan, hidden_BTD, w_DV, targets_BT):
  """(log-probabilities, entropies or zeros, log-normalisers), [B, T] each."""
  shape = targets_BT.shape
  n = _chunks(math.prod(shape), plan.chunk)

  def one(chunk):
    h_XD, targets_X = chunk
    logits_XV = _logits(plan, h_XD, w_DV)
    top_X = jnp.max(logits_XV, -1)
    if plan.vocab:
      top_X = jax.lax.pmax(top_X, plan.vocab)
    shifted_XV = logits_XV - top_X[:, None]
    exp_XV = jnp.exp(shifted_XV)
    hits_XV = _hits(plan, targets_X, w_DV.shape[1])
    sums = [jnp.sum(exp_XV, -1),
            jnp.sum(jnp.where(hits_XV, shifted_XV, 0.0), -1)]
    if plan.entropy:
      sums.append(jnp.sum(exp_XV * shifted_XV, -1))
    sum_X, target_X, *rest = _total(sums, plan.vocab)
    log_X = jnp.log(sum_X)
    entropy_X = log_X - rest[0] / sum_X if rest else jnp.zeros_like(log_X)
    return target_X - log_X, entropy_X, top_X + log_X

  values = jax.lax.map(one, (
      _split(hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), n),
      _split(targets_BT.reshape(-1), n)))
  return tuple(_join(x, shape) for x in values)


def _backward(plan: Plan, hidden_BTD, w_DV, targets_BT, normalisers_BT, g_BT):
  """d logp / d logits = (1[v = target] - p) / temperature."""
  n = _chunks(math.prod(targets_BT.shape), plan.chunk)

  def one(dw_DV, chunk):
    h_XD, targets_X, normalisers_X, g_X = chunk
    p_XV = jnp.exp(_logits(plan, h_XD, w_DV) - normalisers_X[:, None])
    hits_XV = _hits(plan, targets_X, w_DV.shape[1])
    d_XV = (g_X * plan.scale)[:, None] * (jnp.where(hits_XV, 1.0, 0.0) - p_XV)
    d_XV = d_XV.astype(h_XD.dtype)
    dw_DV += _dot(plan, h_XD.T, d_XV)
    dh_XD = _dot(plan, d_XV, w_DV.T)
    return dw_DV, dh_XD.astype(h_XD.dtype)

  flat = (hidden_BTD.reshape(-1, hidden_BTD.shape[-1]),
          *(x.reshape(-1) for x in (targets_BT, normalisers_BT, g_BT)))
  dw_DV, d_hidden = jax.lax.scan(
      one, jnp.zeros(w_DV.shape, jnp.float32),
      tuple(_split(x, n) for x in flat))
  return _gathered(plan, _join(d_hidden, hidden_BTD.shape), dw_DV)


def _gathered(plan, d_hidden, dw_DV):
  """The gradients of this device's tokens and columns, summed over devices."""
  d_hidden = _total(d_hidden, plan.vocab)
  split = [name for entry in plan.tokens or () for name in _names(entry)]
  dw_DV = _total(dw_DV, tuple(a for a in split if a not in plan.width))
  for axis in plan.width:  # one by one: see `rules.gather_part`
    dw_DV = jax.lax.psum_scatter(dw_DV, axis, tiled=True)
  return d_hidden, dw_DV


def _mapped(plan, f, inputs, outputs):
  """`f` under `shard_map`.

  Args:
    plan: its mesh axes.
    f: the function of one device's part.
    inputs, outputs: a letter for each array: r, one value per token; h, hidden
      states; w, the unembedding; d, its gradient.
  """
  if plan.tokens is None:
    return functools.partial(f, plan)
  specs = {"r": plan.tokens, "h": PartitionSpec(*plan.tokens, None),
           "w": PartitionSpec(None, plan.vocab or None),
           "d": PartitionSpec(plan.width or None, plan.vocab or None)}
  return jax.shard_map(
      functools.partial(f, plan), in_specs=tuple(specs[x] for x in inputs),
      out_specs=tuple(specs[x] for x in outputs), check_vma=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(plan, hidden, w_DV, targets):
  return _save(plan, hidden, w_DV, targets)[0]


def _save(plan, hidden, w_DV, targets):
  # Cast before the gather over the mesh, which then moves the narrower type.
  logprobs, entropies, normalisers = _mapped(plan, _forward, "hwr", "rrr")(
      hidden, w_DV.astype(hidden.dtype), targets)
  return (logprobs, entropies), (hidden, w_DV, targets, normalisers)


def _gradients(plan, saved, cotangents):
  hidden, w_DV, *rest = saved
  d_hidden, dw_DV = _mapped(plan, _backward, "hwrrr", "hd")(
      hidden, w_DV.astype(hidden.dtype), *rest, cotangents[0])
  return d_hidden, dw_DV.astype(w_DV.dtype), None


_logprobs.defvjp(_save, _gradients)


def chunked_cross_entropy(
    hidden_BTD: jax.Array, teacher_BTD: jax.Array, w_DV: jax.Array, *,
    temperature: float = 1.0, chunk: int = 1024,
    precision: jax.lax.Precision | None = None,
    axes: Mapping[str, int] | None = None
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy -sum_v p(v) log q(v) of a teacher p and a student q.

  Both are softmax(states @ w / temperature). Computed in chunks and on a mesh
  as in `chunked_logprobs`, with about two [chunk, V] arrays at a time. Only
  `hidden_BTD` has a gradient: teacher and unembedding are detached.

  Args:
    hidden_BTD: the student's states, any float dtype.
    teacher_BTD: the teacher's states, of the same dtype.
    w_DV: unembedding of both.
    temperature: divides the logits of both.
    chunk: as in `chunked_logprobs`.
    precision: of the products, see `linear.precise`.
    axes: as in `chunked_logprobs`.

  Returns:
    (cross_entropy_BT, float32, nats; agree_BT, bool: whether both have the same
    most likely token).

  Raises:
    ValueError: a temperature or chunk that is not positive.
  """
  plan = _plan(temperature, chunk, False, precision, axes, hidden_BTD, w_DV)
  cross_BT, agree_BT = _soft(plan, hidden_BTD, teacher_BTD, w_DV)
  return cross_BT, jax.lax.stop_gradient(agree_BT) > 0


def _soft_forward(plan: Plan, hidden_BTD, teacher_BTD, w_DV):
  """(cross-entropies, 1 where both agree, both log-normalisers), [B, T]."""
  shape = hidden_BTD.shape[:2]
  n = _chunks(math.prod(shape), plan.chunk)

  def one(chunk):
    logits_XV, wanted_XV = (_logits(plan, x_XD, w_DV) for x_XD in chunk)
    (top_X, norm_X), (best_X, wanted_X) = (
        _normaliser(plan, x_XV) for x_XV in (logits_XV, wanted_XV))
    p_XV = jnp.exp(wanted_XV - wanted_X[:, None])
    both_XV = (logits_XV == top_X[:, None]) & (wanted_XV == best_X[:, None])
    cross_X, both_X = _total(
        [jnp.sum(p_XV * (norm_X[:, None] - logits_XV), -1),
         jnp.sum(both_XV.astype(jnp.float32), -1)], plan.vocab)
    return cross_X, both_X, norm_X, wanted_X

  values = jax.lax.map(one, tuple(
      _split(x.reshape(-1, x.shape[-1]), n) for x in (hidden_BTD, teacher_BTD)))
  return tuple(_join(x, shape) for x in values)


def _soft_backward(plan: Plan, hidden_BTD, teacher_BTD, w_DV, norm_BT,
                   wanted_BT, g_BT):
  """d cross-entropy / d logits = (q - p) / temperature."""
  n = _chunks(math.prod(g_BT.shape), plan.chunk)

  def one(chunk):
    h_XD, t_XD, norm_X, wanted_X, g_X = chunk
    q_XV = jnp.exp(_logits(plan, h_XD, w_DV) - norm_X[:, None])
    p_XV = jnp.exp(_logits(plan, t_XD, w_DV) - wanted_X[:, None])
    d_XV = ((g_X * plan.scale)[:, None] * (q_XV - p_XV)).astype(h_XD.dtype)
    return _dot(plan, d_XV, w_DV.T).astype(h_XD.dtype)

  flat = (*(x.reshape(-1, x.shape[-1]) for x in (hidden_BTD, teacher_BTD)),
          *(x.reshape(-1) for x in (norm_BT, wanted_BT, g_BT)))
  d_hidden = jax.lax.map(one, tuple(_split(x, n) for x in flat))
  return (_total(_join(d_hidden, hidden_BTD.shape), plan.vocab),)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _soft(plan, hidden, teacher, w_DV):
  return _soft_save(plan, hidden, teacher, w_DV)[0]


def _soft_save(plan, hidden, teacher, w_DV):
  w_DV = w_DV.astype(hidden.dtype)
  cross, agree, *norms = _mapped(plan, _soft_forward, "hhw", "rrrr")(
      hidden, teacher, w_DV)
  return (cross, agree), (hidden, teacher, w_DV, *norms)


def _soft_gradients(plan, saved, cotangents):
  d_hidden, = _mapped(plan, _soft_backward, "hhwrrr", "h")(
      *saved, cotangents[0])
  return d_hidden, None, None


_soft.defvjp(_soft_save, _soft_gradients)


def chunked_divergence(
    hidden_BTD: jax.Array, w_DV: jax.Array, teacher_BTE: jax.Array,
    teacher_w_EV: jax.Array, *, beta: float, temperature: float = 1.0,
    chunk: int = 1024, precision: jax.lax.Precision | None = None,
    axes: Mapping[str, int] | None = None) -> jax.Array:
  """Generalized Jensen-Shannon divergence of student and teacher (GKD).

  arXiv:2306.13649, eq. 1: with q the student's distribution, p the teacher's
  and m = (1 - beta) q + beta p,

    beta KL(p, m) + (1 - beta) KL(q, m).

  For beta = 0 and 1, where that is 0, it is KL(p, q) and KL(q, p): the limits
  of the divergence over beta and over 1 - beta. Computed in chunks and on a
  mesh as in `chunked_logprobs`, with a few [chunk, V] arrays at a time. The
  teacher has no gradient.

  Args:
    hidden_BTD: the student's states, any float dtype.
    w_DV: its unembedding.
    teacher_BTE: the teacher's states, of any width.
    teacher_w_EV: its unembedding, with the same vocabulary.
    beta: in [0, 1].
    temperature: divides the logits of both.
    chunk: as in `chunked_logprobs`.
    precision: of the products, see `linear.precise`.
    axes: as in `chunked_logprobs`.

  Returns:
    float32 [B, T], nats.

  Raises:
    ValueError: beta outside [0, 1], or as `chunked_logprobs`.
  """
  if not 0 <= beta <= 1:
    raise ValueError(f"beta={beta} is not in 0..1")
  plan = _plan(temperature, chunk, False, precision, axes, hidden_BTD, w_DV)
  return _divergence((plan, beta), hidden_BTD, w_DV, teacher_BTE,
                     teacher_w_EV.astype(teacher_BTE.dtype))


def _apart(beta, student_XV, teacher_XV):
  """(terms of the divergence, q times its derivative in q), [X, V] each.

  The derivative is given up to a constant, which cancels in the softmax's
  gradient. Both arguments are log-probabilities.
  """
  q_XV, p_XV = jnp.exp(student_XV), jnp.exp(teacher_XV)
  if beta == 0:  # q times the derivative, which itself could overflow
    return p_XV * (teacher_XV - student_XV), -p_XV
  if beta == 1:
    gap_XV = student_XV - teacher_XV
    return q_XV * gap_XV, q_XV * gap_XV
  mixed_XV = jnp.logaddexp(
      student_XV + math.log(1 - beta), teacher_XV + math.log(beta))
  slope_XV = (1 - beta) * q_XV * (student_XV - mixed_XV)
  return beta * p_XV * (teacher_XV - mixed_XV) + slope_XV, slope_XV


def _divergence_forward(how, hidden_BTD, w_DV, teacher_BTE, teacher_w_EV):
  """(divergences, both log-normalisers), [B, T] each."""
  plan, beta = how
  shape = hidden_BTD.shape[:2]
  n = _chunks(math.prod(shape), plan.chunk)

  def one(chunk):
    both = [_logits(plan, x_XD, w) for x_XD, w in zip(
        chunk, (w_DV, teacher_w_EV))]
    norms = [_normaliser(plan, logits_XV)[1] for logits_XV in both]
    terms_XV, _ = _apart(beta, *(
        z_XV - norm_X[:, None] for z_XV, norm_X in zip(both, norms)))
    return _total(jnp.sum(terms_XV, -1), plan.vocab), *norms

  values = jax.lax.map(one, tuple(
      _split(x.reshape(-1, x.shape[-1]), n) for x in (hidden_BTD, teacher_BTE)))
  return tuple(_join(x, shape) for x in values)


def _divergence_backward(how, hidden_BTD, w_DV, teacher_BTE, teacher_w_EV,
                         norm_BT, wanted_BT, g_BT):
  """d divergence / d logits = (s - q sum(s)) / temperature, s from `_apart`."""
  plan, beta = how
  n = _chunks(math.prod(g_BT.shape), plan.chunk)

  def one(dw_DV, chunk):
    h_XD, t_XE, norm_X, wanted_X, g_X = chunk
    student_XV = _logits(plan, h_XD, w_DV) - norm_X[:, None]
    teacher_XV = _logits(plan, t_XE, teacher_w_EV) - wanted_X[:, None]
    q_XV = jnp.exp(student_XV)
    _, slope_XV = _apart(beta, student_XV, teacher_XV)
    mean_X = _total(jnp.sum(slope_XV, -1), plan.vocab)
    d_XV = slope_XV - q_XV * mean_X[:, None]
    d_XV = ((g_X * plan.scale)[:, None] * d_XV).astype(h_XD.dtype)
    dw_DV += _dot(plan, h_XD.T, d_XV)
    return dw_DV, _dot(plan, d_XV, w_DV.T).astype(h_XD.dtype)

  flat = (*(x.reshape(-1, x.shape[-1]) for x in (hidden_BTD, teacher_BTE)),
          *(x.reshape(-1) for x in (norm_BT, wanted_BT, g_BT)))
  dw_DV, d_hidden = jax.lax.scan(
      one, jnp.zeros(w_DV.shape, jnp.float32),
      tuple(_split(x, n) for x in flat))
  return _gathered(plan, _join(d_hidden, hidden_BTD.shape), dw_DV)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _divergence(how, hidden, w_DV, teacher, teacher_w_EV):
  return _divergence_save(how, hidden, w_DV, teacher, teacher_w_EV)[0]


def _divergence_save(how, hidden, w_DV, teacher, teacher_w_EV):
  divergence_BT, *norms = _mapped(
      how[0], _bound(_divergence_forward, how), "hwhw", "rrr")(
          hidden, w_DV.astype(hidden.dtype), teacher, teacher_w_EV)
  return divergence_BT, (hidden, w_DV, teacher, teacher_w_EV, *norms)


def _divergence_gradients(how, saved, cotangent):
  hidden, w_DV, *rest = saved
  d_hidden, dw_DV = _mapped(
      how[0], _bound(_divergence_backward, how), "hwhwrrr", "hd")(
          hidden, w_DV.astype(hidden.dtype), *rest, cotangent)
  return d_hidden, dw_DV.astype(w_DV.dtype), None, None


_divergence.defvjp(_divergence_save, _divergence_gradients)


def _bound(f, how):
  """`f` as a function of a plan, as `_mapped` calls it."""
  return lambda plan, *arrays: f((plan, how[1]), *arrays)
