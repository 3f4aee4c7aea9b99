"""Bytes on a device, counted and as the compiler says."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.accounting import chips, memory
from r1jax.sharding.mesh import MeshConfig, make_mesh
from tests.accounting.test_hlo import TPU


def test_shards_count_once_and_whole_leaves_whole():
  mesh = make_mesh(MeshConfig(data=2, fsdp=4))
  place = lambda *spec: NamedSharding(mesh, P(*spec))
  tree = {
      "split": jax.ShapeDtypeStruct((16, 6), jnp.float32,
                                    sharding=place("fsdp")),
      "both": jax.ShapeDtypeStruct((16, 6), jnp.bfloat16,
                                   sharding=place(("data", "fsdp"))),
      "whole": jax.ShapeDtypeStruct((5,), jnp.int32, sharding=place()),
      "alone": jax.ShapeDtypeStruct((3,), jnp.int8),
      "keys": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))}
  parts = {name: memory.shard_bytes(leaf) for name, leaf in tree.items()}
  assert parts == {"split": 4 * 6 * 4, "both": 2 * 6 * 2, "whole": 20,
                   "alone": 3, "keys": 2 * 2 * 4}
  assert memory.shard_bytes(tree) == sum(parts.values())


def test_arguments_are_what_the_compiler_says():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  args = [jax.ShapeDtypeStruct(s, d, sharding=NamedSharding(mesh, p))
          for s, d, p in (((8, 6), jnp.float32, P("data", "tensor")),
                          ((6, 4), jnp.bfloat16, P("tensor")),
                          ((8,), jnp.int32, P()))]
  program = jax.jit(lambda x, w, i: x[i] @ w).lower(*args).compile()
  said = program.memory_analysis().argument_size_in_bytes
  assert said == memory.shard_bytes(args)
  assert said == memory.padded_arguments(program.as_text())


def test_tiles_are_padded():
  # [4, 64, 96] fills rows of 128; [3] one tile of 256; a scalar one of 128.
  assert memory.padded_arguments(TPU) == 4 * 64 * 128 * 2 + 256 * 2 + 128 * 4


@pytest.mark.parametrize("kind,gib", [
    ("TPU v5 lite", 15.75), ("TPU v5", 95.73), ("TPU v6 lite", 31.24),
    ("NVIDIA H100 80GB HBM3", 80e9 / 2**30)])
def test_chips_by_their_kind(kind, gib):
  assert chips.of(kind).memory == pytest.approx(gib * 2**30)


def test_a_chip_that_is_not_listed():
  assert chips.of("cpu") is None
