"""The MTP module as a draft of the policy, against float64 loops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.core.types import TokenBatch
from r1jax.losses import mtp
from r1jax.sharding import rules
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import objectives
from tests.reference import draft as reference
from tests.training import cases

F32 = dict(rtol=1e-5, atol=1e-6)
TEMPERATURE = 0.8
ROWS = 4


def objective(draft=0.15):
  return objectives.grpo_objective(
      cases.model(), cases.POLICY, draft=draft, temperature=TEMPERATURE)


@functools.cache
def batch():
  with jax.ensure_compile_time_eval():  # the first call may be in a trace
    return jax.tree.map(lambda x: x[:ROWS], cases.batch()[0])


def rows():
  """(tokens, prompt) of each sequence, row by row as they are packed."""
  found, out = batch(), []
  by_start = {tuple(s.tokens[:4].tolist()): s for s in cases.sequences()}
  for b in range(len(found.tokens_BT)):
    row = []
    for segment in range(1, int(found.segments_BT[b].max()) + 1):
      at = np.flatnonzero(found.segments_BT[b] == segment)
      start = tuple(np.asarray(found.tokens_BT[b, at[:4]]).tolist())
      row.append((by_start[start].tokens.tolist(), by_start[start].prompt))
    out.append(row)
  return out


@functools.cache
def evaluated():
  """The result, and the gradient of the draft's term alone."""
  params, bias_LE = cases.parameters("tiny")

  def term(params):
    result = objective().evaluate(params, bias_LE, batch())
    return result.terms["draft"][0], result

  (_, result), slopes = jax.jit(jax.value_and_grad(
      term, has_aux=True))(params)
  return result, slopes


@functools.cache
def states():
  """float64 of MTP and of the trunk, and the unembedding."""
  params, bias_LE = cases.parameters("tiny")
  model, found = cases.model(), batch()
  out = jax.jit(model.forward)(
      params, bias_LE, found.tokens_BT, found.positions_BT, found.segments_BT)
  ahead = jax.jit(model.mtp)(
      params, bias_LE, out.hidden_BTD, found.targets_BT, found.positions_BT,
      found.segments_BT)
  return [np.float64(x) for x in (
      ahead.hidden_BTD, out.hidden_BTD, model.head(params))]


def test_the_rows_are_read_as_they_are_packed():
  _, mask_BT = mtp.mtp_targets(batch())
  assert max(len(row) for row in rows()) > 1
  assert reference.mtp_loss.pairs(rows()).keys() == {
      (b, t) for b, t in zip(*np.nonzero(np.asarray(mask_BT)))}


def test_the_draft_learns_the_policys_distribution():
  result, _ = evaluated()
  total, weight, agree, divergence = reference.loss(
      rows(), *states(), TEMPERATURE)
  np.testing.assert_allclose(result.terms["draft"], (total, weight), **F32)
  assert float(objective().weights(batch())["draft"]) == weight
  means = result.metrics.means
  assert float(means["draft_agreement"][0]) == agree
  np.testing.assert_allclose(
      means["draft_kl"], (divergence, weight), rtol=1e-5, atol=1e-4)
  # Teeth: another temperature, the policy's own position, swapped roles.
  draft, trunk, w = states()
  behind = np.pad(trunk, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  for others in ((draft, trunk, w, 1.0), (draft, behind, w, TEMPERATURE),
                 (trunk, draft, w, TEMPERATURE)):
    assert abs(reference.loss(rows(), *others)[0] - total) > 1e-2


def naive(params, detach=("trunk", "embed", "head"), whole=False):
  """The draft's term with whole logits and autodiff, some of it left out."""
  stop, model, found = jax.lax.stop_gradient, cases.model(), batch()
  _, bias_LE = cases.parameters("tiny")
  hidden = model.forward(
      params, bias_LE, found.tokens_BT, found.positions_BT,
      found.segments_BT).hidden_BTD
  hidden = stop(hidden) if "trunk" in detach else hidden
  embed = params["embed"]
  fixed = {**params, "embed": stop(embed) if "embed" in detach else embed}
  out = model.mtp(fixed, bias_LE, hidden, found.targets_BT,
                  found.positions_BT, found.segments_BT)
  w = model.head(params)
  w = stop(w) if "head" in detach else w
  q = jax.nn.log_softmax(out.hidden_BTD @ w / TEMPERATURE)
  p = jax.nn.softmax(jnp.roll(hidden, -1, 1) @ w / TEMPERATURE)
  mask_BT = found.mask_BT if whole else mtp.mtp_targets(found)[1]
  return -jnp.sum(jnp.sum(p * q, -1) * mask_BT)


def gap(a, b):
  return max(float(np.max(np.abs(x - y))) for x, y in zip(
      jax.tree.leaves(a), jax.tree.leaves(b)))


def test_only_the_mtp_module_is_moved():
  _, slopes = evaluated()
  params, _ = cases.parameters("tiny")
  others = {name: part for name, part in slopes.items() if name != "mtp"}
  assert not any(np.any(x) for x in jax.tree.leaves(others))
  want = jax.jit(jax.grad(naive))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-4), slopes["mtp"], want["mtp"])
  assert gap(slopes["mtp"], jax.tree.map(np.zeros_like, slopes["mtp"])) > 0.1


@pytest.mark.parametrize("broken", [
    dict(detach=("embed", "head")), dict(detach=("trunk", "head")),
    dict(detach=("trunk", "embed")), dict(whole=True)], ids=str)
def test_teeth(broken):
  """Each part that could be forgotten is seen in the gradient."""
  _, slopes = evaluated()
  params, _ = cases.parameters("tiny")
  other = jax.jit(jax.grad(functools.partial(naive, **broken)))(params)
  assert gap(slopes, other) > 1e-2


@functools.cache
def gradient(draft):
  """Compiled (params, batch) -> gradient of the sum of all terms."""
  _, bias_LE = cases.parameters("tiny")

  def loss(params, found):
    result = objective(draft).evaluate(params, bias_LE, found)
    return sum(value for value, _ in result.terms.values()), result.metrics

  return jax.jit(jax.grad(loss, has_aux=True))


def test_the_policy_does_not_feel_its_draft():
  params, _ = cases.parameters("tiny")
  with_draft, without = (
      gradient(draft)(params, batch())[0] for draft in (0.15, 0.0))
  assert np.any(jax.tree.leaves(with_draft.pop("mtp"))[0])
  without.pop("mtp")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **F32),
               with_draft, without)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_trained_may_hold_anything(bad):
  """Prompts and padding of all float arrays of a batch."""
  params, _ = cases.parameters("tiny")
  found = batch()
  spoilt = dataclasses.replace(found, **{
      name: jnp.where(found.mask_BT != 0, getattr(found, name), bad)
      for name in ("advantages_BT", "sampler_logprobs_BT", "old_logprobs_BT",
                   "ref_logprobs_BT")})
  want, got = (gradient(0.15)(params, x) for x in (found, spoilt))
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(got))


def test_the_experts_of_the_draft_are_counted():
  result, _ = evaluated()
  rest = jax.jit(objective(0.0).evaluate)(
      *cases.parameters("tiny"), batch()).load_LE
  assert np.any(result.load_LE[-1]) and not np.any(rest[-1])
  np.testing.assert_array_equal(result.load_LE[:-1], rest[:-1])


def test_on_a_mesh():
  want, slopes = evaluated()
  params, bias_LE = cases.parameters("tiny")
  mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
  placed = jax.device_put(params, rules.param_shardings(
      cases.model().param_axes(), params, mesh))

  def term(params, found: TokenBatch):
    result = objective().evaluate(params, bias_LE, found)
    return result.terms["draft"][0], result.metrics.means

  with jax.set_mesh(mesh):
    (value, means), got = jax.jit(jax.value_and_grad(term, has_aux=True))(
        placed, jax.device_put(batch(), rules.batch_sharding(mesh)))
  np.testing.assert_allclose(value, want.terms["draft"][0], **F32)
  np.testing.assert_array_equal(
      means["draft_agreement"], want.metrics.means["draft_agreement"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-4), got["mtp"], slopes["mtp"])


def test_a_draft_needs_its_module():
  with pytest.raises(ValueError, match="no MTP"):
    objectives.grpo_objective(
        cases.model("tiny-dense"), cases.POLICY, draft=0.1)
  with pytest.raises(ValueError, match="draft=-1"):
    objective(-1.0)
