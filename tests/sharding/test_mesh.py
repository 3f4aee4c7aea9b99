"""Mesh shapes on 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.sharding.mesh import MeshConfig, Place, make_mesh, mesh_or_none

F32 = dict(rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config,shape", [
    (MeshConfig(), (8, 1, 1, 1, 1)),
    (MeshConfig(fsdp=2), (4, 2, 1, 1, 1)),
    (MeshConfig(data=1, fsdp=-1, tensor=2), (1, 4, 1, 1, 2)),
    (MeshConfig(data=2, expert=-1), (2, 1, 4, 1, 1)),
    (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 1, 1, 2)),
    (MeshConfig(data=1, sequence=-1), (1, 1, 1, 8, 1)),
    (MeshConfig(fsdp=8), (1, 8, 1, 1, 1)),
])
def test_shape(config, shape):
  assert config.shape(8) == shape
  mesh = make_mesh(config)
  assert mesh.axis_names == ("data", "fsdp", "expert", "sequence", "tensor")
  assert tuple(mesh.shape.values()) == shape
  assert set(mesh.axis_types) == {AxisType.Auto}
  assert mesh.devices.size == len(set(mesh.devices.flat)) == 8


@pytest.mark.parametrize("sizes,message", [
    (dict(data=0), "mesh axis data=0"),
    (dict(tensor=-2), "mesh axis tensor=-2"),
    (dict(fsdp=-1), "data and fsdp are both -1"),
])
def test_bad_sizes(sizes, message):
  with pytest.raises(ValueError, match=message):
    MeshConfig(**sizes)


@pytest.mark.parametrize("sizes,message", [
    (dict(fsdp=3), "data=-1, fsdp=3, .* a multiple of 3 devices; there are 8"),
    (dict(data=4), "data=4, .* needs 4 devices; there are 8"),
    (dict(data=4, tensor=4), "needs 16 devices; there are 8"),
    (dict(fsdp=16), "a multiple of 16 devices; there are 8"),
])
def test_sizes_that_do_not_make_the_devices(sizes, message):
  with pytest.raises(ValueError, match=message):
    make_mesh(MeshConfig(**sizes))


def test_a_part_of_the_devices():
  mesh = make_mesh(MeshConfig(tensor=2), devices=jax.devices()[:4])
  assert tuple(mesh.shape.values()) == (2, 1, 1, 1, 2)
  assert make_mesh().devices.size == len(jax.devices()) == 8


def test_the_compiler_places_data():
  """Auto axes: an ambiguous contraction is resolved, not refused."""
  mesh = make_mesh(MeshConfig(fsdp=4))
  a = jnp.arange(8 * 8.0).reshape(8, 8) / 64
  split = jax.device_put(a, NamedSharding(mesh, P("data", "fsdp")))
  with jax.set_mesh(mesh):
    np.testing.assert_allclose(jax.jit(jnp.matmul)(split, split), a @ a, **F32)


def test_one_device_needs_no_mesh(monkeypatch):
  assert mesh_or_none(MeshConfig(fsdp=2)) == make_mesh(MeshConfig(fsdp=2))
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  assert mesh_or_none() is None


def test_a_place_knows_the_free_axes():
  """Without a mesh, on one, and where a shard_map has taken an axis."""
  assert Place.here() == Place("cpu") and Place("cpu").axes == {}
  seen = []

  def look(x):
    seen.append(Place.here("decode"))
    return x

  mesh = make_mesh(MeshConfig(data=2, sequence=4))
  with jax.set_mesh(mesh):
    jax.jit(look)(jnp.zeros(8))
    jax.jit(jax.shard_map(look, axis_names={"sequence"}, in_specs=P("sequence"),
                          out_specs=P("sequence")))(jnp.zeros(8))
  whole, inside = seen[0], seen[-1]
  assert whole.layout == "decode" and whole.axes == dict(mesh.shape)
  assert inside.axes == {a: n for a, n in mesh.shape.items() if a != "sequence"}


@pytest.mark.parametrize("place,flat", [
    (Place("cpu"), True), (Place("gpu"), False), (Place("tpu"), False),
    (Place("cpu", (("data", 8), ("sequence", 1))), True),
    (Place("cpu", (("data", 2), ("sequence", 4))), False),
    (Place("cpu", (("sequence", 4),), frozenset({"sequence"})), True)])
def test_products_are_flat_where_rows_and_positions_have_one_order(place, flat):
  assert place.flat == flat
