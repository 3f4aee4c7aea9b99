"""Objectives of reward models: one update, however it is split."""

import jax
import numpy as np
import pytest

from r1jax.data.streams import preference as data_lib
from r1jax.models import scalar_head
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import lora, step
from r1jax.training import preference as preference_lib
from r1jax.training import state as state_lib
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig
from tests.reference import preference as reference
from tests.stages import cases

F32 = dict(rtol=2e-5, atol=2e-6)
SAME_UPDATE = dict(rtol=0, atol=1e-5)
MODEL = scalar_head.over(cases.DENSE)
ADAM = OptimizerConfig(lr=0.02, eps=1.0)


def examples(count, sides):
  rng = np.random.default_rng(5)
  return [data_lib.Example(
      tuple(rng.integers(3, 500, rng.integers(2, 9)).astype(np.int32)
            for _ in range(sides)),
      float(rng.random()), 1.0 + i % 2, "", (1,) * sides, i)
          for i in range(count)]


def batch(sides, count=20):
  data = data_lib.Packed(examples(count, sides), 8, 24,
                         epochs=1, sides=sides)
  assert data.steps() <= 1
  return data.batch(0)


def objective(sides):
  return (preference_lib.pairwise_objective(MODEL, 0.1) if sides == 2
          else preference_lib.pointwise_objective(MODEL))


@pytest.fixture(scope="module")
def params():
  return jax.device_get(MODEL.init(jax.random.key(1)))


def fresh(params):
  return jax.tree.map(jax.numpy.array, params)


def scores(params, texts):
  """Of conversations that have a row each."""
  shape = len(texts), max(map(len, texts))
  tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  for row, ids in enumerate(texts):
    tokens[row, :len(ids)], segments[row, :len(ids)] = ids, 1
  out = jax.jit(MODEL.trunk.forward)(
      {k: v for k, v in params.items() if k != "score"},
      MODEL.init_router_bias(), tokens,
      np.broadcast_to(np.arange(shape[1]), shape), segments)
  ends = np.asarray(out.hidden_BTD, np.float64)[
      np.arange(shape[0]), [len(ids) - 1 for ids in texts]]
  return (ends @ np.asarray(params["score"], np.float64)[:, 0]).tolist()


@pytest.mark.parametrize("sides", [1, 2])
def test_terms_are_those_of_unpacked_conversations(sides, params):
  found = jax.jit(objective(sides).evaluate)(
      params, MODEL.init_router_bias(), batch(sides))
  got = list(zip(*(scores(params, texts) for texts in zip(*(
      e.sides for e in examples(20, sides))))))
  labels = [e.label for e in examples(20, sides)]
  weights, mask = [1.0 + i % 2 for i in range(20)], [1] * 20
  if sides == 1:
    flat = [s for s, in got]
    want = {"pointwise": reference.pointwise(flat, labels, mask, weights)}
    right = [(s > 0) == (y > 0.5) for s, y in zip(flat, labels)]
  else:
    chosen, rejected = zip(*got)
    want = {"pairwise": reference.pairwise(
        chosen, rejected, labels, mask, weights),
        "centring": reference.centring(chosen, rejected, mask, weights)}
    right = [c > r for c, r in got]
  assert set(found.terms) == set(want)
  for name, pair in want.items():
    np.testing.assert_allclose(found.terms[name], pair, **F32)
  total, count = found.metrics.means["accuracy"]
  assert (float(total), float(count)) == (sum(right), 20)
  weight = objective(sides).weights(batch(sides))
  assert {k: float(v) for k, v in weight.items()} == {k: 30.0 for k in want}


def updated(params, sides, micros=1, mesh=None, adapter=None):
  started = state_lib.start(
      MODEL, fresh(params), MODEL.init_router_bias(), ADAM, mesh=mesh,
      adapter=adapter, key=jax.random.key(2))
  update = step.make_update(
      objective(sides), started.optimizer, shardings=started.shardings,
      frozen=started.frozen)
  with step.on_mesh(mesh):
    state, metrics = update.run(started.state, [
        step.place(m, mesh) for m in step.micro_batches(batch(sides), micros)])
  assert float(metrics.means["skipped"][0]) == 0
  return started, state


@pytest.mark.parametrize("sides", [1, 2])
def test_micro_batches_and_mesh_change_nothing(sides, params):
  _, want = updated(params, sides)
  assert np.any(np.asarray(want.params["score"]) != params["score"])
  for options in (dict(micros=2), dict(mesh=make_mesh(MeshConfig(
      data=2, fsdp=2, tensor=2)))):
    _, got = updated(params, sides, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, **SAME_UPDATE), got.params, want.params)


def test_an_adapter_trains_the_head_too(params):
  started, state = updated(params, 2, adapter=LoraConfig(rank=2))
  assert state.params["score"].dtype == np.float32
  assert np.any(np.asarray(state.params["score"]) != params["score"])
  # The base's own is as it was, and is not what the joined model has.
  np.testing.assert_array_equal(
      started.frozen.params["score"], params["score"])
  joined = lora.dense(started.frozen.merge(state.params))
  cases.same(joined["score"], state.params["score"])
  np.testing.assert_array_equal(joined["embed"], params["embed"])
  axes = lora.adapter_axes(MODEL.param_axes(), LoraConfig(rank=2))
  assert axes["score"] == ("embed", None)
