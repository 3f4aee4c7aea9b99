"""The policy between its layouts, and between host and device."""

import jax
import numpy as np
import pytest

from r1jax.checkpoint.manager import Manager
from r1jax.core.types import Rollout
from r1jax.data.streams import minibatches
from r1jax.losses.policy import PolicyConfig
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.sharding import rules
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import grpo
from r1jax.stages.learner import Learner
from r1jax.stages.weights import Handover
from r1jax.training import metrics
from r1jax.training.logprobs import make_logprobs
from r1jax.training.optimizer import OptimizerConfig
from tests.stages import cases
from tests.training import cases as batches

MESH = dict(data=1, fsdp=2, expert=2, sequence=2)
AWAY = ("optimizer", "reference")


def learner(offload=(), dtype="float32", mesh=None, **changes):
  policy = cases.policy()
  policy = policy._replace(model=build(
      policy.model.cfg, Compute(dtype=dtype)))
  cfg = cases.config(**dict(row_length=batches.ROW, offload=offload) | changes)
  return Learner(cfg, Handover(policy),
                 make_mesh(MeshConfig(**mesh)) if mesh else None)


def updated(learner):
  """After one update; its metrics."""
  (micro,) = batches.batch(1)
  batch = jax.tree.map(np.asarray, micro).replace(
      ref_logprobs_BT=None, old_logprobs_BT=None)
  with learner.on_mesh():
    placed = learner.placed(batch)
    ((fixed,),) = learner.fixed_logprobs([placed])
    found = learner.update([placed[0].replace(**fixed)])
    learner.rest()
    return metrics.floats(found)


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
    axes = build(cases.MIXTURE).param_axes(params)
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


def rollout(lengths_QG, seed=0, experts=None):
  """Random completions of these lengths after prompts of five tokens."""
  rng, shape = np.random.default_rng(seed), (*lengths_QG.shape, 24)
  return Rollout(
      prompt_tokens=tuple(rng.integers(4, 500, 5).astype(np.int32)
                          for _ in lengths_QG),
      prompt_ids_Q=np.arange(len(lengths_QG)),
      tokens_QGT=rng.integers(4, 500, shape).astype(np.int32),
      lengths_QG=lengths_QG.astype(np.int32),
      truncated_QG=np.zeros(lengths_QG.shape, bool),
      logprobs_QGT=np.zeros(shape, np.float32), experts_QGSLA=experts)


def step(learner, sampled, number=0):
  """The updates of a step, from rollout to metrics; and its minibatches."""
  cfg = learner.cfg
  packed = minibatches.pack(
      sampled, grpo.parts(cfg, number), cfg.row_length, cfg.micro_rows)
  placed = learner.place(packed)
  fixed = learner.fixed_logprobs(placed[:cfg.minibatches])
  advantages_QG = np.random.default_rng(number).normal(
      size=sampled.lengths_QG.shape)
  ready = learner.ready(packed, placed, fixed, advantages_QG,
                        np.ones(sampled.lengths_QG.shape, bool))
  return [learner.update(micros) for micros in ready], packed, ready


SIZES = dict(row_length=32, micro_rows=2, questions=2, samples=4,
             max_new_tokens=(24,))


def test_one_compilation_whatever_the_number_of_rows():
  found = learner(minibatches=2, epochs=2, **SIZES | dict(
      micro_rows=1, questions=6))
  rows, programs = [], []
  halves = np.where(np.arange(24) % 2, 6, 24).reshape(6, 4)
  for number, length in enumerate((1, 4, 6, 10, 24, halves)):
    metrics_, packed, _ = step(
        found, rollout(np.broadcast_to(length, (6, 4)), number), number)
    assert len(metrics_) == 4
    rows.append(sum(len(m.sample_BT) for m in packed))
    programs.append(found.compilations())
  assert len(set(rows)) == 6, rows
  assert len(set(programs)) == 1 and programs[0] > 0
  assert found.updates == int(found.state.step) == 24


def test_epochs_differ_and_keep_their_fixed_logprobs():
  """Of every sample, token by token, against the policy that sampled."""
  found = learner(minibatches=2, epochs=3, **SIZES)
  sampled = rollout(np.random.default_rng(1).integers(3, 20, (2, 4)))
  before = jax.device_get(found.state.params)
  metrics_, packed, ready = step(found, sampled)
  layouts = [np.concatenate([m.sample_BT for m in packed[i:i + 2]])
             for i in (0, 2, 4)]
  assert not np.array_equal(layouts[0], layouts[1])
  assert not np.array_equal(layouts[1], layouts[2])
  first = metrics.floats(metrics_[0])
  assert abs(first["ratio"] - 1) < 1e-6
  logprobs = make_logprobs(found.model)
  for micros in ready:
    for micro in micros:
      want, _ = logprobs(before, found.state.router_bias_LE, micro)
      real = np.asarray(micro.segments_BT) > 0
      for name in ("old_logprobs_BT", "ref_logprobs_BT"):
        np.testing.assert_allclose(
            np.asarray(getattr(micro, name))[real], np.asarray(want)[real],
            rtol=0, atol=2e-5)


def copies(learner, first):
  """Bytes alive, in units of the first parameters, without those that tests
  keep."""
  size = sum(x.nbytes for x in jax.tree.leaves(first))
  held = [*jax.tree.leaves(vars(learner.state)), *jax.tree.leaves(
      [learner.reference, learner._compute])]
  return sum(x.nbytes for x in held) / size


def test_parameters_are_held_as_often_as_something_reads_them():
  """Masters, two moments, and a reference where there is a penalty."""
  policy = cases.policy(cases.DENSE)
  first = jax.device_get(policy.params)
  initial = Handover(policy)
  found = Learner(cases.config(policy=PolicyConfig(kl_beta=0.0)), initial, None)
  assert found.reference is None and "reference" not in found.arrays()
  assert copies(found, first) == pytest.approx(3, abs=0.01)
  # The first parameters are the state's own: no second copy of them is alive.
  pointers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(
      found.state.params)}
  assert {x.unsafe_buffer_pointer() for x in jax.tree.leaves(
      policy.params)} == pointers
  with pytest.raises(ValueError, match="handed over to another run"):
    initial.take()
  kept = learner(policy=PolicyConfig(kl_beta=0.0), log_kl=True)
  assert kept.reference is not None


def test_masters_are_float32_and_the_copies_that_compute_are_not():
  """An update at R1's learning rate moves every weight of a bfloat16 model."""
  found = learner(dtype="bfloat16", optimizer=OptimizerConfig(lr=3e-6))
  before = jax.device_get(found.state.params)
  updated(found)
  # The reference is as the policy computes: a penalty of exactly 0 at first.
  assert found.reference["params"]["embed"].dtype == "bfloat16"
  assert found.policy["embed"].dtype == "bfloat16"
  assert found.policy is found.policy  # cast once
  for path, x in jax.tree_util.tree_flatten_with_path(found.state.params)[0]:
    assert x.dtype == "float32", path
  moved = jax.tree.map(lambda a, b: float(np.mean(a != b)), before,
                       jax.device_get(found.state.params))
  assert moved["mixture_blocks"]["attn"]["w_o"] > 0.99
  # And no further: Adam's first step is the learning rate, where rounding to
  # bfloat16 would move a weight of 0.02 by up to 3e-5.
  furthest = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before,
                          jax.device_get(found.state.params))
  assert max(jax.tree.leaves(furthest)) < 1.05 * 3e-6
  # Rounded to bfloat16 most of it would be lost.
  stays = jax.tree.map(
      lambda a, b: float(np.mean(a.astype("bfloat16") == b.astype("bfloat16"))),
      before, jax.device_get(found.state.params))
  assert stays["mixture_blocks"]["attn"]["w_o"] > 0.9


def test_bfloat16_parameters_are_not_trained_by_mistake():
  def started(**options):
    policy = cases.policy(cases.DENSE)
    model = build(cases.DENSE, Compute(dtype="bfloat16",
                                       param_dtype="bfloat16"))
    return Learner(cases.config(optimizer=OptimizerConfig(lr=1e-2, **options)),
                   Handover(policy._replace(
                       model=model, params=model.cast(policy.params))), None)

  with pytest.raises(ValueError, match="float32 masters set optimizer.rounding"
                     "='stochastic'"):
    started()
  found = started(rounding="stochastic")
  assert found.state.params["embed"].dtype == "bfloat16"
  step(found, rollout(np.full((8, 2), 9)))
  assert found.state.params["embed"].dtype == "bfloat16"


def test_the_reference_has_a_router_of_its_own():
  """Under replay its KL shows how far the policy's router has drifted."""
  found = learner(replay_experts=True, **SIZES)
  other = jax.tree_util.tree_map_with_path(
      lambda path, x: x + 0.5 * jax.random.normal(jax.random.key(1), x.shape)
      if path[-1].key == "w_router" else x, found.state.params)
  found.state = found.state.replace(params=other)
  cfg, lengths_QG = found.cfg, np.full((2, 4), 20)
  plain = rollout(lengths_QG)
  shape = (2, 4, 5 + 24, found.model.cfg.n_mixture_layers,
           found.model.cfg.n_activated)
  experts = np.random.default_rng(0).integers(0, 8, shape, np.int32)

  def fixed(sampled):
    packed = minibatches.pack(
        sampled, grpo.parts(cfg, 0), cfg.row_length, cfg.micro_rows)
    return [d["ref_logprobs_BT"] for part in found.fixed_logprobs(
        found.place(packed)) for d in part]

  cases.same(fixed(rollout(lengths_QG, experts=experts)), fixed(plain))


def test_the_draft_module_rests_in_reinforcement_learning():
  """No gradient, no decay, no moments."""
  rates = OptimizerConfig(lr=0.1, weight_decay=0.5)
  found = learner(optimizer=rates)
  before = jax.device_get(found.state.params)
  updated(found)
  after = jax.device_get(found.state.params)
  cases.same(after["mtp"], before["mtp"])
  assert np.abs(after["embed"] - before["embed"]).max() > 1e-3
  count = len(jax.tree.leaves(found.state.params))
  held = len(jax.tree.leaves(found.state.params["mtp"]))
  moments = [x for x in jax.tree.leaves(found.state.opt_state) if x.ndim]
  assert len(moments) == 2 * (count - held)


def test_dr_grpo_divides_by_the_runs_own_budget():
  """Twice the budget, half the loss."""
  policy = PolicyConfig(aggregation="constant")
  losses = []
  for new in (12, 24):
    found = learner(policy=policy, **SIZES | dict(max_new_tokens=(new,)))
    (measured,), _, _ = step(found, rollout(np.full((2, 4), 9)))
    losses.append(metrics.floats(measured)["loss"])
  assert losses[0] == pytest.approx(2 * losses[1], rel=1e-5) and losses[0]
