import os

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checkpoint import faults
from r1jax.checkpoint import midway as midway_lib
from r1jax.checkpoint.midway import Midway
from tests import processes


def state(value=0.0):
  return {"w": jnp.full((2, 3), float(value))}


def together(*arguments):
  return processes.results(processes.start(
      2, 1, "-m", "tests.checkpoint.interrupted", *arguments))


def test_two_processes_stop_at_one_question_and_get_their_parts_back(tmp_path):
  asked = together("save", tmp_path / "inside")
  # One of them was signalled, and they wait for each other nowhere.
  assert len(asked) == 2 and len(set(asked)) == 1 and int(asked[0]) >= 1000
  assert os.listdir(tmp_path / "inside/state") == ["70001"]
  assert sorted(os.listdir(tmp_path / "inside/local")) == [
      "70001.0_of_2.npz", "70001.1_of_2.npz"]
  alone = Midway(tmp_path / "inside")
  with pytest.raises(faults.Unusable, match=(
      r"inside step 8 by 2 process\(es\), each with a part of that step, but"
      r" there are 1 now\. It was not changed\. Start 2, or the same command"
      r" with --skip_damaged moves it aside")) as caught:
    alone.restore({"w": jnp.zeros((8, 4))})
  assert caught.value.folder == tmp_path / "inside"
  alone.close()
  assert together("restore", tmp_path / "inside") == ["restored"] * 2
  assert not (tmp_path / "inside").exists()


def test_without_a_save_nothing_is_made(tmp_path):
  inside = Midway(tmp_path / "inside")
  assert inside.step() is None
  inside.drop()
  inside.close()
  assert not os.listdir(tmp_path)


def test_a_save_that_fails_leaves_the_former(tmp_path, monkeypatch):
  inside = Midway(tmp_path)
  inside.save(3, state(3), {"at": 3}, {"rows": np.arange(3)})

  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  for at in ("Manager.save", "core_io.write_bytes"):
    with monkeypatch.context() as patch:
      patch.setattr(f"r1jax.checkpoint.midway.{at}", full)
      with pytest.raises(OSError, match="No space"):
        inside.save(4, state(4), {"at": 4}, {"rows": np.arange(4)})
    again = Midway(tmp_path)
    assert again.step() == 3
    arrays, host, local = again.restore(state())
    np.testing.assert_array_equal(arrays["w"], 3.0)
    np.testing.assert_array_equal(local["rows"], np.arange(3))
    assert host == {"at": 3}
    again.close()
  inside.close()


@pytest.mark.parametrize("harm", ["cut", "missing", "another file"])
def test_a_damaged_part_is_never_taken(tmp_path, harm):
  inside = Midway(tmp_path)
  inside.save(3, state(3), {}, {"rows": np.arange(300)})
  (path,) = (tmp_path / "local").iterdir()
  data = path.read_bytes()
  path.unlink()
  if harm != "missing":
    path.write_bytes(data[:-40] if harm == "cut" else b"no arrays")
  with pytest.raises(faults.Unusable, match="is damaged") as caught:
    inside.restore(state())
  assert caught.value.folder == tmp_path
  path.write_bytes(data)
  np.testing.assert_array_equal(
      inside.restore(state())[2]["rows"], np.arange(300))
  inside.close()


def test_what_is_packed_comes_back(tmp_path):
  tree = {"a": {"b": [np.bool_(True), np.arange(2, dtype=np.uint8)],
                "0": np.zeros((0, 3), np.float16)},
          "c": ({"d": np.int64(2**40)},)}
  found = midway_lib._unpacked(midway_lib._packed(tree))
  assert found["a"]["b"][0] and found["a"]["b"][0].dtype == bool
  assert found["a"]["b"][1].dtype == np.uint8
  assert found["a"]["0"].shape == (0, 3)
  assert found["c"] == [{"d": 2**40}]
  with pytest.raises(ValueError, match="text is not an array of numbers"):
    midway_lib._packed({"text": object()})
