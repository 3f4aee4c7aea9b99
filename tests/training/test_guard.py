"""A non-finite update: skipped on the device, recorded on the host."""

import jax
import numpy as np
import optax
import pytest

from r1jax.training import guard, metrics, state, step
from r1jax.training.optimizer import OptimizerConfig, make_optimizer
from tests.training import cases

ADAM = make_optimizer(OptimizerConfig(lr=0.1, weight_decay=0.1))


@pytest.fixture(scope="module")
def update():
  return step.make_update(
      cases.objective("tiny-dense", "grpo"), ADAM, gamma=0.1)


def poisoned():
  micros = cases.batch(4)
  micros[2] = micros[2].replace(
      advantages_BT=jax.numpy.full_like(micros[2].advantages_BT, np.inf))
  return micros


def test_a_non_finite_gradient_changes_nothing(update):
  start = cases.make_state("tiny-dense", ADAM)
  before = jax.device_get(start)
  after, found = update.run(start, poisoned())
  found = metrics.floats(found)
  assert found["skipped"] == 1
  assert not np.isfinite(found["grad_norm"])
  after = jax.device_get(after)
  assert (before.step, after.step) == (0, 1)
  jax.tree.map(np.testing.assert_array_equal, before.replace(step=1), after)
  # Teeth: a sound batch changes every parameter.
  moved, found = update.run(jax.device_put(after), cases.batch(4))
  assert metrics.floats(found)["skipped"] == 0
  same = jax.tree.map(np.array_equal, moved.params, before.params)
  assert not any(jax.tree.leaves(same))


def test_the_router_bias_is_kept_too():
  rng = np.random.default_rng(0)
  load_LE = rng.integers(9, size=(2, 5)).astype(np.float32)
  params = {"embed": np.zeros((3, 4), np.float32)}
  optimizer = optax.sgd(1.0)
  start = state.create(params, np.zeros((2, 5), np.float32), optimizer)
  for value, skipped in ((0.0, 0), (np.nan, 1)):
    grads = {"embed": params["embed"] + value}
    after, found = step.apply(
        optimizer, 0.1, start, step.Sums(grads, load_LE, np.float32(0)))
    assert metrics.floats(found)["skipped"] == skipped
    assert np.any(after.router_bias_LE) != bool(skipped)


def test_dump_and_stop(tmp_path, caplog):
  watch = guard.Guard(tmp_path)
  fine = {"skipped": 0.0, "loss": 1.0}
  bad = {"skipped": 1.0, "loss": np.nan, "kl": 2.0}
  (batch,) = cases.batch()
  watch.check(5, bad, batch)
  watch.check(6, bad, batch)
  watch.check(7, fine, batch)
  assert watch.skipped == ()
  assert "loss=nan" in caplog.text and "kl" not in caplog.text
  again = guard.load(tmp_path / "step_5.npz")
  assert again.experts_BTLA is None
  jax.tree.map(np.testing.assert_array_equal, again, batch)
  watch.check(8, bad, batch)
  watch.check(9, bad, batch)
  resumed = guard.Guard(tmp_path, watch.skipped)
  with pytest.raises(FloatingPointError, match="8, 9, 10.*loss=nan"):
    resumed.check(10, bad, batch)
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
      f"step_{n}.npz" for n in (5, 6, 8, 9, 10))


def test_what_is_no_batch(tmp_path):
  np.savez(tmp_path / "a.npz", x=np.zeros(3))
  with pytest.raises(ValueError, match="no batch"):
    guard.load(tmp_path / "a.npz")
