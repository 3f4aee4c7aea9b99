import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checkpoint import manager

ROOT = pathlib.Path(__file__).parents[2]


def mesh(shape, names):
  return jax.make_mesh(
      shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))


def state(value=0.0, sharding=None):
  w_DF = jnp.arange(96.0).reshape(8, 12) + value
  if sharding is not None:
    w_DF = jax.device_put(w_DF, sharding)
  return {
      "params": {"w": w_DF, "half": jnp.full((3, 5), value, jnp.bfloat16)},
      "router_bias": jnp.zeros((0, 0)),
      "opt_state": (jnp.int32(7), {"mu": jnp.full(4, value)}, None),
      "pending": np.arange(6, dtype=np.int64),
      "key": jax.random.key(3),
      "keys": jax.random.split(jax.random.key(4), 5),
  }


def numbers(tree):
  return [
      np.asarray(jax.random.key_data(x)
                 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
      for x in jax.tree.leaves(tree)]


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype and x.shape == y.shape
  for x, y in zip(numbers(a), numbers(b)):
    np.testing.assert_array_equal(x, y)


def test_everything_comes_back_as_it_was(tmp_path):
  host = {"step": 2, "data": {"at": [1, 2]}, "stage": "grpo", "big": 2**60}
  m = manager.Manager(tmp_path)
  assert m.latest_step() is None
  assert m.save(2, state(0.5), host)
  m.close()

  again = manager.Manager(tmp_path)
  assert again.latest_step() == 2
  arrays, got = again.restore(like=state())
  assert got == host
  assert_same(arrays, state(0.5))
  assert isinstance(arrays["pending"], np.ndarray)
  again.close()


def test_a_donated_buffer_does_not_change_what_is_saved(tmp_path):
  m = manager.Manager(tmp_path)
  bump = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = jnp.zeros((512, 512))
  for step in (1, 2, 3):
    x = bump(x)
    m.save(step, {"x": x}, {})
  x = bump(bump(x))
  for step in (1, 2, 3):
    arrays, _ = m.restore(step, like={"x": x})
    np.testing.assert_array_equal(arrays["x"], step)
  m.close()


def test_restores_onto_another_mesh(tmp_path):
  if jax.device_count() < 8:
    pytest.skip("needs 8 (simulated) devices")
  one = jax.NamedSharding(mesh((8,), ("data",)), jax.P("data"))
  two = jax.NamedSharding(mesh((2, 4), ("fsdp", "tensor")),
                          jax.P("tensor", "fsdp"))
  m = manager.Manager(tmp_path)
  m.save(1, state(0.25, one), {})
  arrays, _ = m.restore(like=state(0.0, two))
  assert arrays["params"]["w"].sharding.is_equivalent_to(two, 2)
  assert_same(arrays, state(0.25))
  abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state()["params"])
  params, _ = m.restore(like={"params": abstract}, partial=True)
  assert_same(params["params"], state(0.25)["params"])
  assert len(params["params"]["w"].devices()) == 1
  m.close()


def test_keeps_the_newest_and_the_best(tmp_path):
  scores = {1: 0.1, 2: 0.9, 3: float("nan"), 4: 0.3, 5: 0.2, 6: None}
  m = manager.Manager(tmp_path, keep=2, best_metric="pass1")
  for step, score in scores.items():
    metrics = None if score is None else {"pass1": score}
    m.save(step, {"x": jnp.float32(step)}, {}, metrics=metrics)
  assert m.steps() == [2, 5, 6]
  assert m.best_step() == 2
  m.close()
  again = manager.Manager(
      tmp_path, keep=1, best_metric="pass1", best_mode="min")
  again.save(7, {"x": jnp.float32(7)}, {}, metrics={"pass1": 0.5})
  assert again.steps() == [5, 7]
  again.close()


def test_interval_force_and_old_steps(tmp_path):
  m = manager.Manager(tmp_path, save_interval=3)
  x = {"x": jnp.ones(2)}
  saved = [step for step in range(1, 8) if m.save(step, x, {})]
  assert saved == [3, 6]
  assert m.save(7, x, {}, force=True)
  assert not m.save(7, x, {}, force=True)
  assert m.steps() == [3, 6, 7]
  m.close()


@pytest.mark.parametrize("change, message", [
    (lambda s: s["params"].pop("half"), "superfluous: params.half"),
    (lambda s: s.update(more=jnp.ones(2)), "missing: more"),
    (lambda s: s["params"].update(w=jnp.ones((8, 13))),
     r"\(8, 12\).*\(8, 13\)"),
    (lambda s: s["params"].update(half=jnp.ones((3, 5))), "bfloat16.*float32"),
])
def test_another_model_is_refused(tmp_path, change, message):
  m = manager.Manager(tmp_path)
  m.save(1, state(), {})
  like = state()
  change(like)
  with pytest.raises(manager.Unlike, match=message) as caught:
    m.restore(like=like)
  assert "It was not changed. Resume with the flags" in str(caught.value)
  m.close()


@pytest.mark.parametrize("donated, copied", [
    (None, 6), ((), 0), (("params", "key"), 3)])
def test_arrays_that_stay_need_no_copy(tmp_path, monkeypatch, donated, copied):
  """A model that is only imported is not in memory twice."""
  copy, copies = jnp.copy, []
  monkeypatch.setattr(
      manager.jnp, "copy", lambda x: copies.append(x.nbytes) or copy(x))
  m = manager.Manager(tmp_path)
  assert m.save(1, state(0.5), {}, donated=donated)
  m.wait()
  found, _ = m.restore(like=state())
  assert_same(found, state(0.5))
  assert len(copies) == copied
  m.close()


@pytest.mark.parametrize("donated", [None, ("x",), ()])
def test_what_is_donated_too_early_is_saved_all_the_same(tmp_path, donated):
  m = manager.Manager(tmp_path)
  bump = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = {name: bump(jnp.zeros((1024, 1024))) for name in "xy"}
  m.save(1, x, {}, donated=donated)
  for _ in range(3):
    x = {name: bump(value) for name, value in x.items()}
  found, _ = m.restore(like=x)
  for value in found.values():
    np.testing.assert_array_equal(value, 1)
  m.close()


def test_a_checkpoint_is_read_in_parts(tmp_path, monkeypatch):
  m = manager.Manager(tmp_path)
  x = {str(i): jnp.full((8, 1024), i, jnp.float32) for i in range(16)}
  m.save(1, x, {"at": 3})
  m.wait()
  monkeypatch.setattr(manager, "_AT_ONCE", 1)
  restore, read = m._orbax.restore, []

  def counted(step, args):
    got = restore(step, args=args)
    read.append(sum(leaf.nbytes for leaf in got.arrays.values()))
    return got

  monkeypatch.setattr(m._orbax, "restore", counted)
  found, host = m.restore(like=x)
  assert_same(found, x)
  assert host == {"at": 3}
  assert read == [2 * 8 * 1024 * 4] * 8
  m.close()


def test_large_leaves_are_read_before_small_ones(monkeypatch):
  """A leaf is in memory several times while it is read."""
  monkeypatch.setattr(manager, "_AT_ONCE", 1)
  sizes = {"a": 3, "b": 100, "c": 40, "d": 60, "e": 90}
  parts = manager._parts({name: jax.ShapeDtypeStruct((size,), jnp.float32)
                          for name, size in sizes.items()})
  assert [name for part in parts for name in part] == [*"bedca"]
  assert parts[0] == {"b": jax.ShapeDtypeStruct((100,), jnp.float32)}


def test_floats_become_those_that_are_asked_for(tmp_path):
  """Parameters of another run, if the caller says so; nothing else does."""
  m = manager.Manager(tmp_path)
  m.save(1, state(1 / 3), {})
  like = {"params": {"w": jax.ShapeDtypeStruct((8, 12), jnp.bfloat16),
                     "half": jax.ShapeDtypeStruct((3, 5), jnp.float32)}}
  with pytest.raises(manager.Unlike, match="bfloat16.*float32"):
    m.restore(like=like, partial=True)
  found, _ = m.restore(like=like, partial=True, cast=True)
  want = state(1 / 3)["params"]
  for name, dtype in (("w", jnp.bfloat16), ("half", jnp.float32)):
    assert found["params"][name].dtype == dtype
    np.testing.assert_array_equal(
        found["params"][name], want[name].astype(dtype))
  whole = {"opt_state": (jax.ShapeDtypeStruct((), jnp.float32),)}
  with pytest.raises(manager.Unlike, match="int32.*float"):
    m.restore(like=whole, partial=True, cast=True)
  m.close()


def test_bad_arguments(tmp_path):
  with pytest.raises(ValueError, match="keep=0"):
    manager.Manager(tmp_path, keep=0)
  with pytest.raises(ValueError, match="best_mode='most'"):
    manager.Manager(tmp_path, best_mode="most")
  m = manager.Manager(tmp_path)
  with pytest.raises(ValueError, match="no checkpoint.*there are none"):
    m.restore(like={})
  with pytest.raises(ValueError, match="not JSON-ready"):
    m.save(1, {"x": jnp.ones(1)}, {"x": object()})
  m.close()


KILLED = textwrap.dedent("""
    import os, signal, sys
    import jax, jax.numpy as jnp
    from r1jax.checkpoint import manager
    m = manager.Manager(sys.argv[1])
    small = {"x": jnp.arange(5.0)}
    m.save(1, small, {"step": 1})
    m.wait()
    big = {"x": jax.random.normal(jax.random.key(0), (4000, 4000))}
    m.save(2, big, {"step": 2})
    os.kill(os.getpid(), signal.SIGKILL)
""")


def kills_itself(program, folder):
  done = subprocess.run(
      [sys.executable, "-c", program, str(folder)], cwd=ROOT,
      capture_output=True, text=True, check=False, timeout=120,
      env=os.environ | {"JAX_PLATFORMS": "cpu"})
  assert done.returncode == -signal.SIGKILL, done.stderr


def test_sigkill_while_saving_leaves_the_last_complete_one(tmp_path):
  kills_itself(KILLED, tmp_path)
  assert any("tmp" in name for name in os.listdir(tmp_path))
  watching = manager.Manager(tmp_path, read_only=True)
  assert watching.steps() == [1]
  assert any("tmp" in name for name in os.listdir(tmp_path))
  watching.close()
  m = manager.Manager(tmp_path)
  arrays, host = m.restore(like={"x": jnp.zeros(5)})
  np.testing.assert_array_equal(arrays["x"], np.arange(5.0))
  assert host == {"step": 1}
  assert os.listdir(tmp_path) == ["1"]
  assert m.save(2, {"x": jnp.ones(5)}, {"step": 2})
  assert m.steps() == [1, 2]
  m.close()


KILLED_REMOVING = textwrap.dedent("""
    import os, signal, sys
    import jax, jax.numpy as jnp
    from r1jax.checkpoint import manager
    m = manager.Manager(sys.argv[1], keep=2)
    unlink = os.unlink  # what shutil.rmtree calls
    def once(*args, **kwargs):
      unlink(*args, **kwargs)
      os.kill(os.getpid(), signal.SIGKILL)
    for step in (1, 2, 3):
      m.save(step, {"x": jnp.full(5, float(step))}, {})
      os.unlink = once if step == 3 else unlink
    m.close()
""")


def test_sigkill_while_removing_leaves_no_half_checkpoint(tmp_path):
  kills_itself(KILLED_REMOVING, tmp_path)
  left = sorted(os.listdir(tmp_path))
  assert len(left) == 3 and {"2", "3"} < set(left)  # the third is half there
  watching = manager.Manager(tmp_path, read_only=True)
  assert watching.steps() == [2, 3]
  for step in (2, 3):
    arrays, _ = watching.restore(step, like={"x": jnp.zeros(5)})
    np.testing.assert_array_equal(arrays["x"], step)
  watching.close()
  m = manager.Manager(tmp_path)
  assert m.save(4, {"x": jnp.ones(5)}, {})
  m.close()
  assert sorted(os.listdir(tmp_path)) == ["2", "3", "4"]


def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(tmp_path):
  m = manager.Manager(tmp_path)
  small = {"x": jnp.arange(5.0)}
  m.save(1, small, {})
  m.wait()
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    big = {"x": jax.random.normal(jax.random.key(0), (400, 400))}
    with pytest.raises(OSError, match=r"could not write checkpoint .*/2: .*"
                       r"\[1\]\) are intact: free some space or choose"):
      m.save(2, big, {})
      m.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, former)
  assert os.listdir(tmp_path) == ["1"]
  arrays, _ = m.restore(like=small)
  np.testing.assert_array_equal(arrays["x"], small["x"])
  assert m.save(2, big, {})
  assert m.steps() == [1, 2]
  m.close()


def test_a_read_only_disk_is_one_clear_error(tmp_path):
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk],
      capture_output=True, check=False)
  if mount.returncode:
    pytest.skip("may not mount a file system here")
  try:
    m = manager.Manager(disk / "run")
    small = {"x": jnp.arange(5.0)}
    m.save(1, small, {})
    m.wait()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match="could not write checkpoint.*/2"):
      m.save(2, small, {})
      m.wait()
    with pytest.raises(OSError, match="could not open checkpoints at .*other"):
      manager.Manager(disk / "other")
    watching = manager.Manager(disk / "run", read_only=True)
    arrays, _ = watching.restore(like=small)
    np.testing.assert_array_equal(arrays["x"], small["x"])
    watching.close()
    m.close()
  finally:
    subprocess.run(["umount", disk], check=False)
