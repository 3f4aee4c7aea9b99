"""A whole train state in any layout, saved or compared by some processes.

  python -m tests.checkpoint.layouts save|check FOLDER fsdp=8

What every leaf holds follows from its name alone, so no layout is needed to
know what must come back.
"""

import dataclasses
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.checkpoint import manager, trees
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.sharding import distributed
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import optimizer
from r1jax.training import state as state_lib

HOST = {"stream": {"at": [3, 7]}, "skipped": []}
STEP = 5


def mesh(axes):
  """The mesh of `fsdp=8` or `data=2,tensor=4`."""
  sizes = dict(part.split("=") for part in axes.split(","))
  return make_mesh(dataclasses.replace(
      MeshConfig(data=1), **{name: int(n) for name, n in sizes.items()}))


def model():
  return build(presets.TINY, Compute(param_dtype="bfloat16"))


def empty(mesh=None):
  """Shapes, dtypes and shardings of the state; on the first device or a mesh.

  Weights in bfloat16, moments in float32, counts, the router bias, random keys
  alone and in an array, and an array of the host.
  """
  tx = optimizer.make_optimizer(optimizer.OptimizerConfig(lr=1e-3))
  of = model()
  state = jax.eval_shape(
      lambda: state_lib.create(of.init(jax.random.key(0)),
                               of.init_router_bias(), tx))
  if mesh is None:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    whole, placed = one, jax.tree.map(lambda _: one, state)
  else:
    whole = jax.NamedSharding(mesh, jax.P())
    placed = state_lib.shardings(of, tx, mesh)
  key = jax.random.key(0)
  tree = {"state": state, "key": jax.eval_shape(lambda: key),
          "keys": jax.eval_shape(lambda: jax.random.split(key, 5))}
  places = {"state": placed, "key": whole, "keys": whole}
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree, places) | {"pending": np.zeros((3, 2), np.int64)}


def value(name, leaf):
  """What the leaf with this name holds, in NumPy (a key: its data)."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if is_key(leaf):
    return rng.integers(0, 2**32, (*leaf.shape, 2), np.uint32)
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    return rng.integers(0, 2**31, leaf.shape).astype(leaf.dtype)
  return rng.standard_normal(leaf.shape).astype(leaf.dtype)


def is_key(leaf):
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def filled(like):
  """The tree of `empty` with its values."""
  def leaf(name, x):
    data = value(name, x)
    if isinstance(x, np.ndarray):
      return data
    if is_key(x):
      return jax.jit(lambda: jax.random.wrap_key_data(jnp.asarray(data)),
                     out_shardings=x.sharding)()
    return jax.make_array_from_callback(
        x.shape, x.sharding, lambda index: data[index])

  return trees.unflatten(
      like, {name: leaf(name, x) for name, x in trees.flatten(like).items()})


def save(folder, like):
  m = manager.Manager(folder)
  assert m.save(STEP, filled(like), HOST)
  m.close()


def check(folder, like):
  """Restores onto `like`; asserts that every bit on every device is there."""
  m = manager.Manager(folder)
  got, host = m.restore(like=like)
  m.close()
  assert host == HOST
  got, like = trees.flatten(got), trees.flatten(like)
  assert sorted(got) == sorted(like)
  for name, leaf in got.items():
    data, wanted = value(name, leaf), like[name]
    assert leaf.dtype == wanted.dtype and leaf.shape == wanted.shape, name
    if isinstance(wanted, np.ndarray):
      assert leaf.tobytes() == data.tobytes(), name
      continue
    assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), name
    leaf = jax.random.key_data(leaf) if is_key(leaf) else leaf
    for shard in leaf.addressable_shards:
      assert np.asarray(shard.data).tobytes() == data[shard.index].tobytes(), (
          name, shard.index)
  return len(got)


def main(what, folder, axes):
  distributed.initialize()
  {"save": save, "check": check}[what](folder, empty(mesh(axes)))
  print("RESULT done")


if __name__ == "__main__":
  main(*sys.argv[1:])
