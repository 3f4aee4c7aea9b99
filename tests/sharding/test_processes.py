"""Parts of rows, gathered and placed, by one process and by two."""

import json
import os

import jax
import numpy as np
import pytest

from r1jax.sharding import processes
from r1jax.sharding.mesh import MeshConfig, make_mesh
from tests import processes as cluster

CHILD = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from r1jax.sharding import distributed, processes, rules
from r1jax.sharding.mesh import MeshConfig, make_mesh

distributed.initialize()
me = jax.process_index()
found = {"part": processes.part(list(range(6))),
         "gather": processes.gather({"a" * 2000 * me: [me, 0.1]}),
         "largest": processes.largest(me, -me, 2**31 - 1),
         "processors": processes.processors(),
         "writer": processes.is_writer()}

ran = []
def once():
  ran.append(me)
  return {"x": [1, 2]}
found["from_writer"] = processes.from_writer(once), ran

def fail(error):
  raise error
for error in (ValueError("bad"), OSError(28, "full")):
  try:
    processes.from_writer(lambda: fail(error))
  except type(error) as caught:
    found[type(error).__name__] = str(caught)

# A row is that of its process, on every kind of mesh and back.
ours = {"x": np.arange(8.0).reshape(4, 2) + 100 * me,
        "y": np.arange(4, dtype=np.int32) + 10 * me}
both = {"x": np.concatenate([np.arange(8.0).reshape(4, 2) + 100 * i
                             for i in range(2)]),
        "y": np.concatenate([np.arange(4) + 10 * i for i in range(2)])}
meshes = [MeshConfig(data=4), MeshConfig(data=2, tensor=2),
          MeshConfig(data=1, tensor=4)]
for config in meshes:
  mesh = make_mesh(config)
  if config.tensor == 2:  # processes alternate along the rows
    mesh = jax.sharding.Mesh(
        np.array(jax.devices())[[0, 2, 1, 3]].reshape(mesh.devices.shape),
        mesh.axis_names)
  with jax.set_mesh(mesh):
    placed = processes.rows(ours, rules.batch_sharding(mesh))
    alike = processes.same(both, rules.batch_sharding(mesh))
    for name, want in both.items():
      for array in (placed[name], alike[name]):
        assert array.shape == want.shape
        for shard in array.addressable_shards:
          np.testing.assert_array_equal(shard.data, want[shard.index])
    back = processes.own_rows(jax.jit(
        lambda t: jax.tree.map(lambda x: 2 * x, t))(placed))
    for name in ours:
      np.testing.assert_array_equal(back[name], 2 * ours[name])

# Bits arrive as they were.
values = np.array([[-0.0, np.nan, 1e-40], [3.0, -np.inf, -1.5]], np.float32)
mine = np.where(np.arange(2)[:, None] == me, values, np.float32(0))
for dtype in (np.float32, jnp.bfloat16):
  got = processes.joined(mine.astype(dtype))
  assert got.dtype == dtype and got.tobytes() == values.astype(dtype).tobytes()
print("RESULT", json.dumps(found))
"""


def test_two_processes():
  found = [json.loads(line) for line in cluster.results(
      cluster.start(2, 2, "-c", CHILD))]
  assert [f["part"] for f in found] == [[0, 1, 2], [3, 4, 5]]
  assert [f["writer"] for f in found] == [True, False]
  for f in found:
    assert f["gather"] == [{"": [0, 0.1]}, {"a" * 2000: [1, 0.1]}]
    assert f["largest"] == [1, 0, 2**31 - 1]
    # Both processes are on this machine, and share what it has.
    assert f["processors"] == max(1, len(os.sched_getaffinity(0)) // 2)
    assert f["ValueError"] == "bad" and f["OSError"] == "[Errno 28] full"
  assert [f["from_writer"] for f in found] == [
      [{"x": [1, 2]}, [0]], [{"x": [1, 2]}, []]]


def test_one_process():
  assert processes.part([3, 5]) == [3, 5] and processes.is_writer()
  assert processes.gather({"a": (1,)}) == [{"a": [1]}]
  assert processes.largest(4, -2) == (4, -2)
  assert processes.processors() == len(os.sched_getaffinity(0))
  assert processes.from_writer(lambda: 7) == 7
  mesh = make_mesh(MeshConfig(data=8))
  sharding = jax.sharding.NamedSharding(mesh, jax.P("data"))
  x = np.arange(16.0)
  for place in (processes.rows, processes.same):
    assert place(x, sharding).sharding == sharding
  np.testing.assert_array_equal(
      processes.own_rows(processes.rows(x, sharding)), x)
  assert processes.joined(x) is x


def test_parts_must_be_whole(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  with pytest.raises(ValueError, match="16 questions do not divide over 3"):
    processes.part(range(16), "questions")


@pytest.mark.parametrize("others,share", [
    ([("here", range(96))] * 7, 12),  # eight of a machine, bound to nothing
    ([("here", range(12, 96))] * 7, 12),  # what is bound to its own has that
    ([("there", range(96))] * 7, 96),
    ([("here", range(96))] * 200, 1)])
def test_processes_of_one_machine_share_its_processors(
    monkeypatch, others, share):
  own = range(12) if others[0][1] == range(12, 96) else range(96)
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(own))
  monkeypatch.setattr(
      processes, "gather", lambda mine: [mine, *(
          [mine[0] if where == "here" else "another", list(cores)]
          for where, cores in others)])
  assert processes.processors() == share
