"""One device, a mesh, pmap, micro-batches, packing: the same update."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from r1jax.accounting import memory
from r1jax.core.types import TokenBatch
from r1jax.losses.policy import PolicyConfig
from r1jax.models import presets
from r1jax.models.model import build
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import metrics, objectives, state, step, step_pmap
from r1jax.training.optimizer import OptimizerConfig, make_optimizer
from tests.training import cases

SAME = dict(rtol=1e-5, atol=1e-5)
GAMMA = 0.01
SGD = optax.sgd(1.0)  # the new parameters are the old minus the gradient
KINDS = [("tiny", "lm"), ("tiny", "grpo"), ("tiny-dense", "grpo")]


@functools.cache
def compiled(name, kind):
  return step.make_update(cases.objective(name, kind), SGD, gamma=GAMMA)


def run(name, kind, batch):
  return finish(*compiled(name, kind).run(cases.make_state(name), batch))


def run_mesh(name, kind, batch, **shape):
  mesh = make_mesh(MeshConfig(**shape))
  places = state.shardings(cases.model(name), SGD, mesh)
  update = step.make_update(
      cases.objective(name, kind), SGD, gamma=GAMMA, shardings=places)
  with jax.set_mesh(mesh):
    start = jax.device_put(cases.make_state(name), places)
    return finish(*update.run(start, [step.place(m, mesh) for m in batch]))


def run_pmap(name, kind, batch):
  update = step_pmap.make_update(
      cases.objective(name, kind), SGD, gamma=GAMMA)
  return finish(*update.run(cases.make_state(name), [
      step_pmap.shard(micro, jax.device_count()) for micro in batch]))


def finish(new, found):
  return jax.device_get((new.params, new.router_bias_LE)), metrics.floats(found)


@functools.cache
def expected(name, kind):
  return run(name, kind, cases.batch())


def check(got, name, kind, split_experts=False):
  (tree, found), (want_tree, want) = got, expected(name, kind)
  if split_experts:  # a metric more: the busiest device's load
    busiest = found.pop("load/device_max_over_mean")
    assert 1 <= busiest <= found["load/max_over_mean"]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), tree,
               want_tree)
  assert set(found) == set(want)
  for key in want:
    np.testing.assert_allclose(found[key], want[key], err_msg=key, **SAME)


@pytest.mark.parametrize("name,kind", KINDS)
def test_micro_batches(name, kind):
  check(run(name, kind, cases.batch(4)), name, kind)


def test_two_micro_batches():
  check(run("tiny", "grpo", cases.batch(2)), "tiny", "grpo")


@pytest.mark.parametrize("name,kind", KINDS)
def test_unpacked(name, kind):
  check(run(name, kind, cases.batch(4, packed=False)), name, kind)


@pytest.mark.parametrize("name,kind,shape", [
    ("tiny", "lm", dict(data=8)),
    ("tiny", "grpo", dict(data=1, fsdp=2, expert=2, tensor=2)),
    ("tiny-dense", "grpo", dict(data=2, fsdp=2, tensor=2)),
    ("tiny", "lm", dict(data=1, fsdp=1, expert=4, sequence=2)),
])
def test_mesh(name, kind, shape):
  assert jax.device_count() == 8
  check(run_mesh(name, kind, cases.batch(2), **shape), name, kind,
        split_experts=shape.get("expert", 1) > 1)


def test_moments_split_over_replicas():
  """ZeRO-1: less memory on each of them, the same update."""
  name = "tiny-dense"
  mesh = make_mesh(MeshConfig(data=4, fsdp=2))
  adam = optax.adam(0.1, eps=1.0)
  found = {}
  for zero1 in (False, True):
    places = state.shardings(cases.model(name), adam, mesh, zero1=zero1)
    update = step.make_update(
        cases.objective(name, "grpo"), adam, shardings=places)
    with jax.set_mesh(mesh):
      start = jax.device_put(cases.make_state(name, adam), places)
      size = memory.shard_bytes(start.opt_state)
      micros = [step.place(micro, mesh) for micro in cases.batch(2)]
      new, _ = update.run(start, micros)
      new, _ = update.run(new, micros)
    found[zero1] = jax.device_get(new.params), size
    assert memory.shard_bytes(new.opt_state) == size
    assert new.params["embed"].sharding.spec == places.params["embed"].spec
  # Odd sizes are not split; one fourth were the least.
  (plain, whole), (split, part) = found[False], found[True]
  assert whole / 4 <= part < whole / 2
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), split,
               plain)


@pytest.mark.parametrize("name,kind,n_micro", [
    ("tiny", "lm", 2), ("tiny", "grpo", 1)])
def test_pmap(name, kind, n_micro):
  assert jax.device_count() == 8
  check(run_pmap(name, kind, cases.batch(n_micro)), name, kind)


@pytest.mark.parametrize("name,kind", KINDS)
def test_teeth(name, kind):
  """A mean of the micro-batches' means is another update."""
  batch = cases.batch(4)
  parts = []
  for i in range(4):
    parts.append(run(name, kind, [micro.replace(
        mask_BT=micro.mask_BT * (i == number),
        segments_BT=micro.segments_BT * (i == number))
                                  for number, micro in enumerate(batch)]))
  want_tree, want = expected(name, kind)
  assert abs(np.mean([p[1]["loss"] for p in parts]) - want["loss"]) > 1e-3
  mean = jax.tree.map(lambda *xs: np.mean(xs, 0), *(p[0][0] for p in parts))
  gaps = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), mean, want_tree[0])
  assert max(jax.tree.leaves(gaps)) > 1e-3


@pytest.mark.parametrize("name,kind", KINDS)
def test_loss_is_the_sum_of_its_terms(name, kind):
  """So the weights known beforehand are those that the terms return."""
  objective = cases.objective(name, kind)
  _, found = expected(name, kind)
  total = sum(f * found[f"loss/{k}"] for k, f in objective.factors.items())
  np.testing.assert_allclose(found["loss"], total, **SAME)
  assert found["skipped"] == 0
  assert found["grad_norm"] > 1e-2


def test_the_router_bias_follows_the_load():
  (_, bias_LE), found = expected("tiny", "lm")
  moved = bias_LE - np.asarray(cases.make_state().router_bias_LE)
  np.testing.assert_allclose(np.abs(moved[moved != 0]), GAMMA, rtol=1e-4)
  assert np.all(np.any(moved > 0, 1) & np.any(moved < 0, 1))
  assert found["load/max_over_mean"] > 1
  # In RL the MTP module does not run: its bias stays.
  (_, bias_LE), _ = expected("tiny", "grpo")
  moved = bias_LE - np.asarray(cases.make_state().router_bias_LE)
  assert np.any(moved[:-1]) and not np.any(moved[-1])


@pytest.mark.parametrize("backend,waits", [("cpu", 3), ("gpu", 0)])
def test_a_cpu_has_one_micro_batch_in_flight(backend, waits, monkeypatch):
  """A CPU takes memory at dispatch; an accelerator is never waited for."""
  calls = []
  update = step.Update(
      weigh=lambda weights, micro: weights, zeros=lambda *args: 0, apply=None,
      accumulate=lambda params, bias, weights, sums, micro: (
          sums + micro, micro),
      merge=lambda a, b: a + b, names=())
  monkeypatch.setattr(step.mesh_lib, "backend", lambda: backend)
  monkeypatch.setattr(
      step.jax, "block_until_ready", lambda x: calls.append(x) or x)
  assert update.sum(cases.make_state(), [1, 2, 3]) == (6, 6)
  assert len(calls) == waits


@pytest.mark.parametrize("chunk,times", [(1024, (0, 0.6)), (8192, (1, 9))])
def test_the_logits_of_an_update_never_exist(monkeypatch, chunk, times):
  """Temporary memory of the compiled program; whole chunks show what is seen.
  """
  monkeypatch.setattr(
      objectives, "chunked_logprobs",
      functools.partial(objectives.chunked_logprobs, chunk=chunk))
  model = build(dataclasses.replace(
      presets.get("tiny-dense"), vocab_size=20_000, n_layers=1))
  update = step.make_update(
      objectives.grpo_objective(model, PolicyConfig()), SGD)
  new = jax.eval_shape(lambda key: state.create(
      model.init(key), model.init_router_bias(), SGD), jax.random.key(0))
  shape = (128, 64)
  floats, ints = (jax.ShapeDtypeStruct(shape, t) for t in ("float32", "int32"))
  batch = TokenBatch(
      tokens_BT=ints, targets_BT=ints, positions_BT=ints, segments_BT=ints,
      mask_BT=floats, advantages_BT=floats, sampler_logprobs_BT=floats)
  logits = 128 * 64 * 20_000 * 4
  weights = {"policy": jax.ShapeDtypeStruct((), "float32")}
  sums = jax.eval_shape(step.zeros, new.params, new.router_bias_LE)
  memory = update.accumulate.lower(
      new.params, new.router_bias_LE, weights, sums, batch
  ).compile().memory_analysis()
  low, high = times
  assert low * logits < memory.temp_size_in_bytes < high * logits


def test_rows_must_divide():
  with pytest.raises(ValueError, match="16 rows"):
    cases.batch(3)
  with pytest.raises(ValueError, match="4 rows"):
    step_pmap.shard(cases.batch(4)[0], 8)


def test_factors_need_their_modules():
  dense = cases.model("tiny-dense")
  with pytest.raises(ValueError, match="no MTP"):
    objectives.lm_objective(dense, objectives.LmConfig(mtp=0.1))
  with pytest.raises(ValueError, match="no experts"):
    objectives.grpo_objective(dense, cases.POLICY, balance=0.1)


def test_an_update_on_a_cpu_copies_no_moments():
  """Beside the state there are only the clipped gradients."""
  optimizer = make_optimizer(OptimizerConfig(lr=1e-3))
  start = jax.eval_shape(
      lambda params, bias: state.create(params, bias, optimizer),
      *cases.parameters("tiny-dense"))
  update = step.make_update(cases.objective("tiny-dense", "lm"), optimizer)
  sums = jax.eval_shape(step.zeros, start.params, start.router_bias_LE)
  size = sum(x.size * 4 for x in jax.tree.leaves(start.params))
  run = update.apply.lower(start, sums).compile()
  assert run.memory_analysis().temp_size_in_bytes < 1.5 * size
