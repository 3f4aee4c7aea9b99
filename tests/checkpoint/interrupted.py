"""Processes that are interrupted together, for test_midway.py.

  python -m tests.checkpoint.interrupted save|restore FOLDER
"""

import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.checkpoint.midway import Midway
from r1jax.sharding import distributed
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages.loop.signals import Preemption

W = np.arange(32, dtype=np.float32).reshape(8, 4)


def sharded(value):
  mesh = make_mesh(MeshConfig(data=1, fsdp=jax.device_count()))
  to = jax.NamedSharding(mesh, jax.P("fsdp"))
  return jax.make_array_from_callback(W.shape, to, lambda at: value[at])


def local(process):
  """Of a shape that another process does not know."""
  return {"rows": [np.full((process + 1, 3), process, np.int32),
                   np.float32(process)],
          "half": jnp.full(5 + process, 0.5, jnp.bfloat16)}


def save(folder):
  me = jax.process_index()
  with Preemption() as preemption:
    asked = 0
    while not preemption.requested():
      asked += 1
      if asked == 1000 and me == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.requested() and preemption.name == "SIGTERM"
  print(f"RESULT {asked}")
  with Preemption() as preemption:  # a run after that in the same processes
    assert not any(preemption.requested() for _ in range(1000))
  inside = Midway(folder)
  assert inside.step() is None
  inside.save(6, {"w": sharded(W)}, {"at": 1}, {})
  inside.save(7, {"w": sharded(W + 1)}, {"at": 2}, local(me))
  inside.save(7, {"w": sharded(W + 2)}, {"at": 3}, local(me))
  inside.close()


def restore(folder):
  me = jax.process_index()
  inside = Midway(folder)
  assert inside.step() == 7
  like = {"w": sharded(np.zeros_like(W))}
  arrays, host, found = inside.restore(like)
  assert host == {"at": 3}
  assert arrays["w"].sharding == like["w"].sharding
  for shard in arrays["w"].addressable_shards:
    np.testing.assert_array_equal(shard.data, (W + 2)[shard.index])
  jax.tree.map(np.testing.assert_array_equal, found, local(me))
  assert found["half"].dtype == jnp.bfloat16
  inside.drop()
  inside.close()
  print("RESULT restored")


if __name__ == "__main__":
  distributed.initialize()
  {"save": save, "restore": restore}[sys.argv[1]](sys.argv[2])
