"""One checkpoint, written by four processes, read by any number of them."""

import jax
import numpy as np
import pytest

from r1jax.checkpoint import trees
from tests import processes
from tests.checkpoint import layouts


def together(count, devices, *arguments):
  """Runs layouts.py in `count` processes of `devices` each."""
  done = processes.results(processes.start(
      count, devices, "-m", "tests.checkpoint.layouts", *arguments))
  assert done == ["done"] * count


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Saved by 4 processes of 2 devices each, parameters split over all 8."""
  folder = tmp_path_factory.mktemp("run") / "checkpoints"
  together(4, 2, "save", folder, "fsdp=8")
  return folder


def test_the_layouts_differ():
  """In each of them a good part of the leaves is split, and differently."""
  split = {}
  for axes in ("fsdp=8", "data=2,expert=2,tensor=2", "fsdp=2,expert=4"):
    leaves = trees.flatten(layouts.empty(layouts.mesh(axes))["state"])
    split[axes] = {name: leaf.sharding.shard_shape(leaf.shape)
                   for name, leaf in leaves.items()
                   if not leaf.sharding.is_fully_replicated}
    assert len(split[axes]) > 20
  assert len({str(sorted(s.items())) for s in split.values()}) == 3


@pytest.mark.parametrize("axes", [
    "fsdp=8", "data=2,expert=2,tensor=2", "fsdp=2,expert=4"])
def test_one_process_of_eight_devices(folder, axes):
  assert jax.device_count() == 8
  assert layouts.check(folder, layouts.empty(layouts.mesh(axes))) > 60


def test_two_processes_of_one_device(folder):
  together(2, 1, "check", folder, "fsdp=2")


def test_one_process_of_one_device(folder):
  assert layouts.check(folder, layouts.empty()) > 60


def test_other_values_are_seen(folder, monkeypatch):
  value = layouts.value

  def other(name, leaf):
    found = value(name, leaf)
    if name.endswith("mu.w_head"):
      found.reshape(-1).view(np.uint8)[-1] ^= 1
    return found

  monkeypatch.setattr(layouts, "value", other)
  with pytest.raises(AssertionError, match="mu.w_head"):
    layouts.check(folder, layouts.empty())
