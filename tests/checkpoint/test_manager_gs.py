"""Checkpoints in a bucket, where nothing can be renamed."""

import textwrap

import pytest

from tests import fake_gcs

COMMON = textwrap.dedent("""
    import subprocess, sys
    import jax, jax.numpy as jnp, numpy as np
    from r1jax.checkpoint import manager

    def state(value):
      return {"w": jnp.arange(96.0).reshape(8, 12) + value,
              "half": jnp.full((3, 5), value, jnp.bfloat16),
              "key": jax.random.key(3)}

    def saved(m, *steps, metrics=None):
      for step in steps:
        m.save(step, state(step), {"step": step}, metrics={"pass1": 1 / step})

    def check(m, step):
      arrays, host = m.restore(step, like=state(0))
      assert host == {"step": step}
      np.testing.assert_array_equal(arrays["w"], state(step)["w"])
      np.testing.assert_array_equal(arrays["half"], state(step)["half"])
      assert (jax.random.key_data(arrays["key"])
              == jax.random.key_data(jax.random.key(3))).all()

    FOLDER, COMMON = "gs://bucket/run/checkpoints", sys.argv[1]
""")


@pytest.fixture
def server():
  with fake_gcs.Server() as server:
    yield server


def run(server, code):
  server.run(COMMON + textwrap.dedent(code), COMMON)


def killed(server, code, wanted):
  server.kill(wanted, COMMON + textwrap.dedent(code), COMMON)


def folders(server):
  return sorted({name.split("/")[2]
                 for name in server.names("run/checkpoints/")})


def test_saves_keeps_and_restores(server):
  run(server, """
      m = manager.Manager(FOLDER, keep=2, best_metric="pass1")
      saved(m, 1, 2, 3, 4)
      assert m.steps() == [1, 3, 4] and m.best_step() == 1
      m.close()
      watching = manager.Manager(FOLDER, read_only=True)
      assert watching.steps() == [1, 3, 4]
      for step in (1, 3, 4):
        check(watching, step)
      # What gcsfs has listed before must not be believed for ever.
      other = "m = manager.Manager(FOLDER, keep=1); saved(m, 5); m.close()"
      subprocess.run([sys.executable, "-c", COMMON + other, COMMON], check=True)
      watching = manager.Manager(FOLDER, read_only=True)
      assert watching.steps() == [5]
      check(watching, 5)
  """)
  assert folders(server) == ["5"]


def test_sigkill_while_saving_leaves_the_last_complete_one(server):
  killed(server, """
      m = manager.Manager(FOLDER)
      saved(m, 1, 2)
      m.close()
  """, lambda method, name: name.endswith("checkpoints/2/commit_success.txt"))
  assert folders(server) == ["1", "2"]  # All of it is there but that file.
  run(server, """
      watching = manager.Manager(FOLDER, read_only=True)
      assert watching.steps() == [1]
      m = manager.Manager(FOLDER)
      assert m.latest_step() == 1
      check(m, 1)
      saved(m, 2)
      assert m.steps() == [1, 2]
      check(m, 2)
      m.close()
  """)


def test_sigkill_while_removing_leaves_no_half_checkpoint(server):
  removed = []

  def second(method, name):
    if (method == "DELETE" and "/checkpoints/1/" in name
        and "run/checkpoints/2/commit_success.txt" in server.objects):
      removed.append(name)
    return len(removed) > 1

  killed(server, """
      m = manager.Manager(FOLDER, keep=1)
      saved(m, 1, 2)
      m.close()
  """, second)
  assert folders(server) == ["1", "2"]
  run(server, """
      assert manager.Manager(FOLDER, read_only=True).steps() == [2]
      m = manager.Manager(FOLDER, keep=1)
      assert m.steps() == [2]
      check(m, 2)
      m.close()
  """)


def test_a_save_inside_a_step_and_moving_it_aside(server):
  """Object by object: the one that says that it is complete goes last."""
  run(server, """
      from etils import epath
      from r1jax.checkpoint import retention
      from r1jax.checkpoint.midway import Midway
      inside = Midway("gs://bucket/run/inside")
      assert inside.step() is None
      for at in (1, 2):
        inside.save(7, state(at), {"at": at}, {"rows": [np.arange(at)]})
      inside.close()
      inside = Midway("gs://bucket/run/inside")
      assert inside.step() == 7
      arrays, host, local = inside.restore(state(0))
      assert host == {"at": 2} and local["rows"][0].tolist() == [0, 1]
      np.testing.assert_array_equal(arrays["w"], state(2)["w"])
      inside.drop()
      inside.close()
      m = manager.Manager(FOLDER)
      saved(m, 1, 2)
      m.close()
      target = epath.Path("gs://bucket/run/checkpoints_damaged/2")
      for expected in ("2", "2-2"):
        found = retention.set_aside(epath.Path(FOLDER) / "2", target)
        assert found == target.parent / expected, found
        m = manager.Manager(FOLDER)
        assert m.steps() == [1]
        saved(m, 2)
        m.close()
  """)
  assert not server.names("run/inside/")
  assert folders(server) == ["1", "2"]
  def files(folder):
    """Without the data's own, of which there may be one more or less."""
    names = {key.removeprefix(folder) for key in server.names(folder)}
    data = {name for name in names if "/d/" in name}
    assert data
    return names - data

  whole = files("run/checkpoints/2/")
  assert "commit_success.txt" in whole
  for name in ("2", "2-2"):
    assert files(f"run/checkpoints_damaged/{name}/") == whole


def test_a_missing_bucket_is_one_clear_error(server):
  run(server, """
      from r1jax.core import io
      try:
        io.write_text("gs://other/run/config.json", "{}")
      except OSError as error:
        assert "gs://other/run/config.json" in str(error), error
        assert "there is no such bucket" in str(error), error
      else:
        raise AssertionError
  """)
  assert server.names() == []
