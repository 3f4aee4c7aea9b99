"""The policy between its layouts, and between host and device."""

import jax
import numpy as np
import pytest

from r1jax.checkpoint.manager import Manager
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.sharding import rules
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages.learner import Learner
from tests.stages import cases
from tests.training import cases as batches

MESH = dict(data=1, fsdp=2, expert=2, sequence=2)
AWAY = ("optimizer", "reference")


def learner(offload=(), dtype="float32", mesh=None):
  policy = cases.policy()
  policy = policy._replace(model=build(
      policy.model.cfg, Compute(dtype=dtype)))
  cfg = cases.config(row_length=batches.ROW, offload=offload)
  return Learner(cfg, policy, make_mesh(MeshConfig(**mesh)) if mesh else None)


def updated(learner):
  """After one update; its metrics."""
  batch = jax.tree.map(lambda x: np.asarray(x[0]), batches.batch(1))
  batch = batch.replace(ref_logprobs_BT=None, old_logprobs_BT=None)
  with learner.on_mesh():
    fixed = learner.fixed_logprobs([batch])
    return learner.update([batch], fixed)


def kinds(tree):
  return {x.sharding.memory_kind for x in jax.tree.leaves(tree)}


@pytest.mark.parametrize("mesh", [
    pytest.param(None, id="one", marks=pytest.mark.slow),
    pytest.param(MESH, id="mesh")])
def test_offloading_changes_no_bit(mesh, tmp_path):
  plain, away = learner(mesh=mesh), learner(AWAY, mesh=mesh)
  for _ in range(2):
    assert kinds(away.state.opt_state) == kinds(away.reference) == {
        "pinned_host"}
    assert kinds(away.state.params) == kinds(plain.reference) == {"device"}
    assert updated(away) == updated(plain)
  cases.same(away.state.params, plain.state.params)
  cases.same(away.state.opt_state, plain.state.opt_state)
  # Through a checkpoint, and on.
  manager = Manager(tmp_path)
  manager.save(1, away.arrays(), {})
  again = learner(AWAY, mesh=mesh)
  arrays, _ = manager.restore(1, like=again.arrays())
  manager.close()
  again.load(arrays)
  assert kinds(again.state.opt_state) == kinds(again.reference) == {
      "pinned_host"}
  cases.same(again.reference, away.reference)
  assert updated(again) == updated(plain)
  cases.same(again.state.params, plain.state.params)


def test_sampling_borrows_the_parameters():
  found = learner(mesh=MESH)
  before = jax.device_get(found.state.params)
  places = jax.tree.map(lambda x: x.sharding, found.state.params)
  with found.on_mesh(), found.sampling() as params:
    assert all(x.is_deleted() for x in jax.tree.leaves(found.state.params))
    axes = build(cases.MIXTURE).param_axes()
    want = rules.param_shardings(axes, params, found.mesh, "decode")
    jax.tree.map(lambda x, place: x.sharding.is_equivalent_to(place, x.ndim)
                 or pytest.fail(f"{x.sharding} is not {place}"), params, want)
  cases.same(found.state.params, before)
  assert jax.tree.map(lambda x: x.sharding, found.state.params) == places


def test_sampling_in_another_dtype_takes_a_copy():
  found = learner(dtype="bfloat16", mesh=MESH)
  before = jax.device_get(found.state.params)
  with found.on_mesh(), found.sampling() as params:
    assert params["embed"].dtype == "bfloat16"
    cases.same(found.state.params, before)
  cases.same(found.state.params, before)


def test_sampling_gives_back_after_an_error():
  found = learner(mesh=MESH)
  before = jax.device_get(found.state.params)
  with pytest.raises(KeyboardInterrupt), found.on_mesh(), found.sampling():
    raise KeyboardInterrupt
  cases.same(found.state.params, before)
