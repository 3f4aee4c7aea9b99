"""Logical axes: strict names, and placement on 8 devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.sharding import rules
from r1jax.sharding.mesh import MeshConfig, make_mesh

F32 = dict(rtol=1e-5, atol=1e-6)


@pytest.fixture
def mesh():
  return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


WIDTH = ("fsdp", "expert", "sequence")


@pytest.mark.parametrize("axes,train,decode", [
    ((), P(), P()),
    (("embed", "mlp"), P(WIDTH, "tensor"), P(None, ("fsdp", "tensor"))),
    (("layers", "experts", "expert_embed", "expert_mlp"),
     P(None, "expert", ("fsdp", "sequence"), "tensor"),
     P(None, "expert", None, ("fsdp", "tensor"))),
    (("vocab", "embed"), P("tensor", WIDTH), P(("fsdp", "tensor"), None)),
    (("q_latent", "heads", "head_dim"), P(WIDTH, "tensor", None),
     P(None, ("fsdp", "tensor"), None)),
    (("act_batch", "act_length", "act_embed"),
     P(("data", "fsdp", "expert"), "sequence", None),
     P(("data", "expert", "sequence"), None, None)),
    (("act_batch", "act_vocab"), P(("data", "fsdp", "expert"), "tensor"),
     P(("data", "expert", "sequence"), ("fsdp", "tensor"))),
])
def test_spec(axes, train, decode):
  assert rules.spec(axes) == rules.spec(axes, "train") == train
  assert rules.spec(axes, "decode") == decode


@pytest.mark.parametrize("name", ["mpl", "act_mpl", "act_layers", ""])
def test_an_unknown_name_raises(name):
  with pytest.raises(ValueError, match=f"unknown logical axis '{name}'"):
    rules.spec(("embed", name))


def test_an_unknown_layout_raises():
  with pytest.raises(ValueError, match="layout='serve': .* train, decode"):
    rules.spec(("embed",), "serve")


@pytest.mark.parametrize("layout,axes,mesh_axis", [
    ("train", ("mlp", "heads"), "tensor"),
    ("train", ("embed", "embed"), "fsdp"),
    ("train", ("experts", "embed"), "expert"),
    ("train", ("act_batch", "embed"), "fsdp"),
    ("train", ("act_length", "embed"), "sequence"),
    ("decode", ("act_batch", "experts"), "expert"),
    ("decode", ("mlp", "heads"), "fsdp"),
])
def test_a_mesh_axis_used_twice_raises(layout, axes, mesh_axis):
  with pytest.raises(ValueError, match=f"both map to .* axis '{mesh_axis}'"):
    rules.spec(axes, layout)


def test_both_layouts_name_the_same_axes_over_the_whole_mesh():
  names = [set(table) for table in rules.LAYOUTS.values()]
  assert names[0] == names[1]
  for table in rules.LAYOUTS.values():
    assert {a for axes in table.values() for a in axes} == set(rules.AXES)


def test_constrain_is_the_identity_without_a_mesh():
  x_BTD = jnp.ones((3, 5, 7))
  axes = ("act_batch", "act_length", "act_embed")
  assert rules.constrain(x_BTD, axes) is x_BTD
  jaxpr = jax.make_jaxpr(lambda x: rules.constrain(x, axes))(x_BTD)
  assert not jaxpr.eqns


@pytest.mark.parametrize("axes,message", [
    (("act_batch", "act_widht"), "unknown logical axis 'act_widht'"),
    (("act_batch", "mlp"), "'mlp' .* is a parameter's axis"),
    (("act_batch",), r"1 logical axes .* shape \(8, 6\)"),
    (("act_mlp", "act_heads"), "both map to the mesh axis 'tensor'"),
])
@pytest.mark.parametrize("with_mesh", [False, True])
def test_constrain_is_as_strict_without_a_mesh(mesh, axes, message, with_mesh):
  x_BF = jnp.ones((8, 6))
  with pytest.raises(ValueError, match=message):
    if with_mesh:
      with jax.set_mesh(mesh):
        rules.constrain(x_BF, axes)
    else:
      rules.constrain(x_BF, axes)


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f])
def test_constrain_places_data(mesh, wrap):
  x_BTF = jnp.arange(8 * 3 * 6.0).reshape(8, 3, 6)
  axes = ("act_batch", "act_length", "act_mlp")
  with jax.set_mesh(mesh):
    y_BTF = wrap(lambda x: rules.constrain(x, axes))(x_BTF)
  assert y_BTF.sharding.shard_shape(y_BTF.shape) == (2, 3, 3)
  np.testing.assert_array_equal(y_BTF, x_BTF)


def test_constrain_splits_as_far_as_it_divides(mesh):
  with jax.set_mesh(mesh):
    y_BTF = jax.jit(
        lambda x: rules.constrain(x, ("act_batch", None, "act_mlp")))(
            jnp.ones((6, 3, 5)))
  # 6 rows over data, not over fsdp too; 5 columns over nothing.
  assert y_BTF.sharding.shard_shape(y_BTF.shape) == (3, 3, 5)


def test_constrain_in_the_layout_of_decoding(mesh):
  with jax.set_mesh(mesh):
    y_BF = jax.jit(lambda x: rules.constrain(
        x, ("act_batch", "act_heads"), "decode"))(jnp.ones((4, 8)))
  assert y_BF.sharding.shard_shape(y_BF.shape) == (2, 2)


def test_constrain_under_vmap_scan_and_grad(mesh):
  w_DD = jax.random.normal(jax.random.key(0), (6, 6)) / 3
  x_BTD = jax.random.normal(jax.random.key(1), (8, 5, 6))

  def loss(w_DD, x_BTD):
    def layer(x_BTD, _):
      x_BTD = jax.vmap(
          lambda x_TD: rules.constrain(
              jnp.tanh(x_TD @ w_DD), ("act_length", "act_mlp")))(x_BTD)
      return rules.constrain(
          x_BTD, ("act_batch", "act_length", "act_embed")), None
    return jnp.sum(jax.lax.scan(layer, x_BTD, length=3)[0] ** 2)

  want = jax.jit(jax.value_and_grad(loss))(w_DD, x_BTD)
  with jax.set_mesh(mesh):
    got = jax.jit(jax.value_and_grad(loss))(w_DD, x_BTD)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, **F32)


def test_constrain_inside_shard_map_and_pmap(mesh):
  x_BF = jnp.arange(8 * 6.0).reshape(8, 6)

  def double(x_BF):
    return rules.constrain(x_BF * 2, ("act_batch", "act_mlp"))

  for axis_names in (set(rules.AXES), {"data"}):
    mapped = jax.shard_map(
        double, mesh=mesh, in_specs=P("data"), out_specs=P("data"),
        axis_names=axis_names)
    with jax.set_mesh(mesh):
      np.testing.assert_array_equal(jax.jit(mapped)(x_BF), x_BF * 2)
  np.testing.assert_array_equal(
      jax.pmap(double)(x_BF[:, None]), x_BF[:, None] * 2)


def shapes(tree):
  return jax.tree.map(
      lambda s: jax.ShapeDtypeStruct(s, jnp.float32), tree,
      is_leaf=lambda s: isinstance(s, tuple))


def test_param_shardings(mesh):
  axes = {
      "embed": ("vocab", "embed"), "norm": (None,), "scale": None,
      "layers": {"up": ("layers", "embed", "mlp"), "odd": ("embed", "mlp")}}
  params = shapes({
      "embed": (10, 6), "norm": (5,), "scale": (2, 3),
      "layers": {"up": (3, 4, 8), "odd": (3, 8)}})
  got = rules.param_shardings(axes, params, mesh)
  parts = jax.tree.map(lambda s, p: s.shard_shape(p.shape), got, params)
  assert parts == {
      "embed": (5, 3), "norm": (5,), "scale": (2, 3),
      "layers": {"up": (3, 2, 4), "odd": (3, 4)}}  # 3 does not divide by 2
  for leaf in jax.tree.leaves(got):
    assert isinstance(leaf, NamedSharding) and leaf.mesh == mesh


def test_every_parameter_byte_is_split_eight_ways():
  mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
  axes = {"up": ("experts", "expert_embed", "expert_mlp"),
          "down": ("mlp", "embed"), "uq": ("q_latent", "heads", "head_dim")}
  params = shapes({"up": (4, 6, 12), "down": (12, 8), "uq": (16, 4, 5)})
  for layout in rules.LAYOUTS:
    places = rules.param_shardings(axes, params, mesh, layout)
    parts = {name: math.prod(place.shard_shape(params[name].shape))
             for name, place in places.items()}
    # Decoding holds all but the experts on every device of an expert group.
    ways = 8 if layout == "train" else 4
    assert parts == {"up": 4 * 6 * 12 // 8, "down": 12 * 8 // ways,
                     "uq": 16 * 4 * 5 // ways}


@pytest.mark.parametrize("axes,message", [
    ({"a": {"up": ("embed", "mpl")}}, r"\['a'\]\['up'\].*unknown .* 'mpl'"),
    ({"a": {"up": ("embed",)}}, r"\['up'\].*1 logical axes"),
    ({"a": {"up": ("mlp", "heads")}}, r"\['up'\].*both map"),
])
def test_param_shardings_names_the_leaf(mesh, axes, message):
  with pytest.raises(ValueError, match=message):
    rules.param_shardings(axes, shapes({"a": {"up": (4, 6)}}), mesh)


def test_a_mesh_of_other_axes_is_refused():
  mesh = Mesh(np.array(jax.devices()), ("data",))
  with pytest.raises(
      ValueError, match="has no axis expert, fsdp, sequence, tensor"):
    rules.param_shardings({"a": ("embed",)}, shapes({"a": (4,)}), mesh)


@pytest.mark.parametrize("layout,config,ways", [
    ("train", MeshConfig(), 8), ("train", MeshConfig(tensor=2), 4),
    ("train", MeshConfig(data=2, fsdp=2, expert=2), 8),
    ("train", MeshConfig(sequence=2), 4), ("decode", MeshConfig(sequence=2), 8),
    ("decode", MeshConfig(data=2, fsdp=2, expert=2), 4),
    ("train", MeshConfig(tensor=8), 1)])
def test_batch_rows_are_split_over_their_axes(layout, config, ways):
  mesh = make_mesh(config)
  sharding = rules.batch_sharding(mesh, layout)
  assert rules.batch_shards(mesh, layout) == ways
  for shape in [(16,), (16, 5), (16, 5, 3)]:
    part = sharding.shard_shape(shape)
    assert part == (16 // ways, *shape[1:])
    assert math.prod(part) * ways == math.prod(shape)
