"""Log-probabilities and entropy without the [tokens, vocabulary] logits."""

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
  """What is static.

  Attributes:
    scale: 1 / temperature.
    chunk: tokens at a time on a device.
    entropy: whether it is computed.
    precision: of the products.
    tokens: mesh axes of rows and of positions; None without a mesh.
    vocab: mesh axes that the vocabulary is split over.
    width: mesh axes that the gradient of the unembedding is scattered over.
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

  Tokens are taken in chunks, in the backward pass too, where the logits are
  computed again from the saved log-normaliser: at no time do more than about
  [chunk, V] logits exist. Products run in the dtype of `hidden` and add up in
  float32.

  On a mesh every device takes chunks of its own tokens against its own columns
  of the vocabulary; the unembedding's other dimension is gathered once, and its
  gradient added up over all tokens once, after the last chunk.

  Args:
    hidden_BTD: states after the final norm, any float dtype.
    w_DV: unembedding.
    targets_BT: int32 in [0, V).
    temperature: divides the logits, as the sampler's does.
    chunk: tokens at a time on each device; at most, and not much fewer.
    entropy: whether to compute it.
    precision: of the products, see `linear.precise`.
    axes: of the mesh that is set, those that are free, see `mesh.Place`; None
      on one device.

  Returns:
    (logprobs_BT, entropy_BT), float32; the entropy, a metric, carries no
    gradient and is None where it was not asked for.

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
  """Number of chunks: one that divides the tokens, if one is near."""
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
  """Bool [X, V], the target's column among those of this device."""
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
  """The gradients of this device's part, added up over the others'."""
  d_hidden = _total(d_hidden, plan.vocab)
  split = [name for entry in plan.tokens or () for name in _names(entry)]
  dw_DV = _total(dw_DV, tuple(a for a in split if a not in plan.width))
  for axis in plan.width:  # one by one: see `rules.gather_part`
    dw_DV = jax.lax.psum_scatter(dw_DV, axis, tiled=True)
  return d_hidden, dw_DV


def _mapped(plan, f, inputs, outputs):
  """`f` on every device's part of r (by token), h (states), w, and dw as d."""
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
  # Cast first: a mesh then gathers it in the narrower type.
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
  """-sum_v p(v) log q(v): p of the teacher's states, q of `hidden`'s.

  Both are softmax(states @ w / temperature). In chunks and on a mesh as
  `chunked_logprobs`, with about two [chunk, V] arrays at a time. The only
  gradient is that of `hidden_BTD`: teacher and unembedding are detached.

  Args:
    hidden_BTD: states of what is trained, any float dtype.
    teacher_BTD: states of what it shall predict, of the same dtype.
    w_DV: unembedding of both.
    temperature: divides the logits of both.
    chunk: tokens at a time on each device; at most, and not much fewer.
    precision: of the products, see `linear.precise`.
    axes: as in `chunked_logprobs`.

  Returns:
    (cross_entropy_BT, float32; agree_BT, bool: both have the same most likely
    token).

  Raises:
    ValueError: a temperature or chunk that is not positive.
  """
  plan = _plan(temperature, chunk, False, precision, axes, hidden_BTD, w_DV)
  cross_BT, agree_BT = _soft(plan, hidden_BTD, teacher_BTD, w_DV)
  return cross_BT, jax.lax.stop_gradient(agree_BT) > 0


def _soft_forward(plan: Plan, hidden_BTD, teacher_BTD, w_DV):
  """(cross-entropies, 1 where the best agree, both normalisers), [B, T]."""
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
  """How far a student's distributions are from a teacher's (GKD).

  Generalized Jensen-Shannon divergence (arXiv:2306.13649, eq. 1): with q the
  student's, p the teacher's and m = (1 - beta) q + beta p,

    beta KL(p, m) + (1 - beta) KL(q, m);

  at the ends, where that is 0, what it tends to in direction: KL(p, q) for beta
  = 0, KL(q, p) for beta = 1. In chunks and on a mesh as `chunked_logprobs`,
  with a few [chunk, V] arrays at a time. The teacher has no gradient.

  Args:
    hidden_BTD: the student's states, any float dtype.
    w_DV: its unembedding.
    teacher_BTE: the teacher's states, of any width.
    teacher_w_EV: its unembedding, of the same vocabulary.
    beta: in [0, 1].
    temperature: divides the logits of both.
    chunk: tokens at a time on each device; at most, and not much fewer.
    precision: of the products, see `linear.precise`.
    axes: as in `chunked_logprobs`.

  Returns:
    float32 [B, T].

  Raises:
    ValueError: beta outside [0, 1], or as `chunked_logprobs`.
  """
  if not 0 <= beta <= 1:
    raise ValueError(f"beta={beta} is not in 0..1")
  plan = _plan(temperature, chunk, False, precision, axes, hidden_BTD, w_DV)
  return _divergence((plan, beta), hidden_BTD, w_DV, teacher_BTE,
                     teacher_w_EV.astype(teacher_BTE.dtype))


def _apart(beta, student_XV, teacher_XV):
  """(terms of the divergence, q times its derivative by q), [X, V] each.

  The derivative is up to a constant, which softmax takes off. Both arguments
  are log-probabilities.
  """
  q_XV, p_XV = jnp.exp(student_XV), jnp.exp(teacher_XV)
  if beta == 0:  # q times the slope; the slope itself could overflow
    return p_XV * (teacher_XV - student_XV), -p_XV
  if beta == 1:
    gap_XV = student_XV - teacher_XV
    return q_XV * gap_XV, q_XV * gap_XV
  mixed_XV = jnp.logaddexp(
      student_XV + math.log(1 - beta), teacher_XV + math.log(beta))
  slope_XV = (1 - beta) * q_XV * (student_XV - mixed_XV)
  return beta * p_XV * (teacher_XV - mixed_XV) + slope_XV, slope_XV


def _divergence_forward(how, hidden_BTD, w_DV, teacher_BTE, teacher_w_EV):
  """(divergences, both normalisers), [B, T] each."""
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
  """d divergence / d logits = (s - q sum(s)) / temperature, s of `_apart`."""
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
  """`f` as `_mapped` calls it, with a plan alone."""
  return lambda plan, *arrays: f((plan, how[1]), *arrays)
