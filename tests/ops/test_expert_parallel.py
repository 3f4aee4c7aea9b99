"""Experts over devices: the values and gradients of a single device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import expert_parallel, ragged_exchange
from r1jax.ops.linear import Adapted
from r1jax.sharding.mesh import MeshConfig, Place, make_mesh
from tests.reference import experts as reference
from tests.reference import lora

SAME = dict(rtol=1e-5, atol=1e-5)
B, T, D, J, E, A = 8, 6, 10, 4, 12, 3

MESHES = {
    "expert": dict(data=1, fsdp=2, expert=4),
    "tensor": dict(data=1, expert=4, tensor=2),
    "all": dict(data=1, fsdp=2, expert=2, tensor=2),
    "sequence": dict(data=1, expert=4, sequence=2),
    "no_group": dict(data=2, fsdp=2, tensor=2),
}


@functools.cache
def case(kind):
  rng = np.random.default_rng(3)
  shapes = ((B, T, D), (B, T, A), (E, D, J), (E, D, J), (E, J, D))
  arrays = [rng.normal(size=shape) for shape in shapes]
  arrays[1] = np.abs(arrays[1]) + 0.1
  if kind == "even":
    chosen = np.argsort(rng.random((B, T, E)))[..., :A]
  else:  # every token wants the first device's experts
    chosen = np.broadcast_to(np.arange(A), (B, T, A))
  flat = [a.reshape(B * T, -1) for a in (*arrays[:2], chosen)]
  direction = rng.normal(size=(B, T, D))
  want = reference.routed(flat[0], flat[2], flat[1], *arrays[2:])
  gradients = reference.gradients(
      direction.reshape(B * T, D), [*flat[:2], *arrays[2:]], flat[2])
  return (arrays, chosen.astype(np.int32), direction,
          (want.reshape(B, T, D), gradients))


def run(kind, mesh, exchange, form="blocks", layout="train"):
  arrays, chosen, direction, _ = case(kind)

  def value(x, gates, *w):
    y = expert_parallel.routed(
        form, exchange, x, chosen, gates, *w, Place.here(layout))
    return jnp.sum(y * jnp.float32(direction)), y

  with jax.set_mesh(make_mesh(MeshConfig(**MESHES[mesh]))):
    (_, y), gradients = jax.jit(
        jax.value_and_grad(value, range(5), has_aux=True))(
            *map(jnp.float32, arrays))
  return y, gradients


@pytest.mark.parametrize("kind", ["even", "one_device"])
@pytest.mark.parametrize("exchange", ["gather", "ragged"])
@pytest.mark.parametrize("mesh", MESHES)
def test_values_and_gradients(kind, mesh, exchange):
  y, gradients = run(kind, mesh, exchange)
  want, want_gradients = case(kind)[-1]
  np.testing.assert_allclose(y, want, **SAME)
  for got, expected in zip(gradients, want_gradients, strict=True):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        got.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5 * scale)


@functools.cache
def adapted_case():
  """Factors of the projections, and the gradients that they should have."""
  rng = np.random.default_rng(8)
  (x, gates, *w), chosen, direction, _ = case("even")
  factors = [(rng.normal(size=(E, m.shape[1], 2)) * 0.5,
              rng.normal(size=(E, 2, m.shape[2])) * 0.5) for m in w]
  sums = [lora.merge("w_up", m, a, b, 0.5)
          for m, (a, b) in zip(w, factors, strict=True)]
  flat = [a.reshape(B * T, -1) for a in (x, gates, chosen)]
  want = reference.routed(flat[0], flat[2], flat[1], *sums)
  *_, d_gate, d_up, d_down = reference.gradients(
      direction.reshape(B * T, D), [*flat[:2], *sums], flat[2])
  return factors, want.reshape(B, T, D), [
      lora.gradients("w_up", d, a, b, 0.5) for d, (a, b) in zip(
          (d_gate, d_up, d_down), factors, strict=True)]


@pytest.mark.parametrize("mesh,exchange", [
    ("all", "gather"), ("all", "ragged"), ("sequence", "ragged"),
    ("no_group", "gather")])
def test_adapted(mesh, exchange):
  """Factors are split as their matrix is, and their gradients added up."""
  (x, gates, *w), chosen, direction, _ = case("even")
  factors, want, want_gradients = adapted_case()

  def value(pairs, x, gates, w):
    adapted = (
        Adapted(m, a, b, 0.5) for m, (a, b) in zip(w, pairs, strict=True))
    y = expert_parallel.routed(
        "blocks", exchange, x, chosen, gates, *adapted, Place.here())
    return jnp.sum(y * jnp.float32(direction)), y

  with jax.set_mesh(make_mesh(MeshConfig(**MESHES[mesh]))):
    (_, y), got = jax.jit(jax.value_and_grad(value, has_aux=True))(
        *jax.tree.map(jnp.float32, (factors, x, gates, w)))
  np.testing.assert_allclose(y, want, **SAME)
  for a, b in zip(*map(jax.tree.leaves, (got, want_gradients)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_decoding_splits_the_experts_width_over_fsdp():
  y, _ = run("even", "all", "gather", layout="decode")
  np.testing.assert_allclose(y, case("even")[-1][0], **SAME)


@pytest.mark.parametrize("exchange", ["gather", "ragged"])
def test_tokens_of_a_decode_step(exchange):
  """[B, D]; three rows are whole in a group of four, eight are split."""
  arrays, chosen, _, (want, _) = case("even")
  x, gates, *w = map(jnp.float32, arrays)
  with jax.set_mesh(make_mesh(MeshConfig(data=1, expert=4, tensor=2))):
    for rows in (3, 8):
      y = jax.jit(lambda x, e, g: expert_parallel.routed(
          "blocks", exchange, x, e, g, *w, Place.here("decode")))(
              x[:rows, 0], chosen[:rows, 0], gates[:rows, 0])
      np.testing.assert_allclose(y, want[:rows, 0], **SAME)


@pytest.mark.parametrize("kind", ["even", "one_device"])
@pytest.mark.parametrize("activated,size,lanes", [
    (1, 4, 128), (1, 7, 5), (A, 20, 5)])
def test_turns_are_one(monkeypatch, kind, activated, size, lanes):
  """Several, the last not full, of rows that are whole or in two tiles."""
  monkeypatch.setattr(expert_parallel, "_turn", lambda pairs: size)
  monkeypatch.setattr(expert_parallel, "LANES", lanes)
  np.testing.assert_allclose(*in_turns(kind, activated), **SAME)


def test_without_a_second_turn_tokens_would_be_lost(monkeypatch):
  monkeypatch.setattr(expert_parallel, "_turn", lambda pairs: 4)
  monkeypatch.setattr(
      jax.lax, "fori_loop", lambda first, last, body, x: body(first, x))
  got, want = in_turns("one_device", 1)
  lost = np.abs(got - want).max(-1) > 1e-3
  assert 0.5 < lost.mean() < 1


def in_turns(kind, activated):
  """The result for the first of each token's experts, and the reference."""
  arrays, chosen, _, _ = case(kind)
  few = [a[..., :activated] for a in (arrays[1], chosen)]
  flat = [a.reshape(B * T, -1) for a in (arrays[0], few[1], few[0])]
  want = reference.routed(*flat, *arrays[2:]).reshape(B, T, D)
  x, gates, *w = map(jnp.float32, (arrays[0], few[0], *arrays[2:]))
  with jax.set_mesh(make_mesh(MeshConfig(**MESHES["expert"]))):
    got = jax.jit(lambda x: expert_parallel.routed(
        "ragged", "gather", x, few[1], gates, *w, Place.here()))(x)
  return got, want


def test_a_turn_has_room_for_twice_what_is_balanced():
  assert expert_parallel._turn(16) == expert_parallel.LEAST
  assert expert_parallel._turn(200) == 512


@pytest.mark.parametrize("most,parts", [(2, 1), (12, 2)])
def test_many_rounds_and_parts_are_one(monkeypatch, most, parts):
  """Few rows at a time, of 18 that each device sends."""
  monkeypatch.setattr(ragged_exchange, "MOST", most)
  assert ragged_exchange.chunks(B * T // 8, A) == parts
  assert ragged_exchange.capacity(B * T // 8 * A // parts) <= most
  y, gradients = run("one_device", "expert", "ragged")
  want, want_gradients = case("one_device")[-1]
  np.testing.assert_allclose(y, want, **SAME)
  np.testing.assert_allclose(
      gradients[0].reshape(B * T, D), want_gradients[0], rtol=1e-4, atol=1e-4)


def test_without_a_second_round_tokens_would_be_lost(monkeypatch):
  routes = ragged_exchange._routes

  def one_round(*args):
    return routes(*args)._replace(rounds=jnp.int32(1))

  monkeypatch.setattr(ragged_exchange, "_routes", one_round)
  y, _ = run("one_device", "expert", "ragged")
  want = case("one_device")[-1][0]
  lost = np.abs(y - want).max(-1) > 1e-3
  assert 0.5 < lost.mean() < 1  # three of four devices' tokens find no place


def test_a_router_in_balance_needs_one_round():
  mesh = make_mesh(MeshConfig(data=1, expert=4, tensor=2))
  # Device d's tokens go to the experts 3d .. 3d + 11, one each.
  chosen = np.arange(B * T * A).reshape(B * T, A) % E

  exchange = ragged_exchange.Exchange(
      "blocks", ("expert",), mesh.axis_names, "cpu", None)

  def local(chosen):
    return ragged_exchange._routes(exchange, chosen, E // 4).rounds[None]

  found = jax.jit(jax.shard_map(
      local, mesh=mesh, in_specs=jax.P("expert"), out_specs=jax.P("expert"),
      check_vma=False))(jnp.asarray(chosen, jnp.int32))
  assert found.tolist() == [1] * 4
  found = jax.jit(jax.shard_map(
      local, mesh=mesh, in_specs=jax.P("expert"), out_specs=jax.P("expert"),
      check_vma=False))(jnp.zeros_like(chosen, jnp.int32))
  # All to one device: four times what is balanced, in rounds of 1.25 times.
  assert found.tolist() == [4] * 4


@pytest.mark.parametrize("exchange", ["gather", "ragged"])
def test_bfloat16(exchange):
  arrays, chosen, _, (want, _) = case("even")
  x, gates, *w = arrays
  with jax.set_mesh(make_mesh(MeshConfig(data=2, expert=4))):
    y = jax.jit(lambda x: expert_parallel.routed(
        "blocks", exchange, x, chosen, jnp.float32(gates),
        *map(jnp.float32, w), Place.here()))(jnp.bfloat16(x))
  assert y.dtype == jnp.bfloat16
  error = np.abs(np.asarray(y, np.float64) - want).max()
  assert error < 0.03 * np.abs(want).max()


def test_the_gradient_of_a_parameter_is_scattered():
  """Nowhere a whole float32 gradient of what the mesh splits eight ways."""
  arrays, chosen, direction, _ = case("even")
  mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2))

  def loss(w_gate):
    return jnp.sum(expert_parallel.routed(
        "blocks", "ragged", *map(jnp.float32, arrays[:1]), chosen,
        jnp.float32(arrays[1]), w_gate, *map(jnp.float32, arrays[3:]),
        Place.here()) * jnp.float32(direction))

  place = jax.NamedSharding(mesh, jax.P("expert", "fsdp", "tensor"))
  with jax.set_mesh(mesh):
    gradient = jax.jit(jax.grad(loss))(
        jax.device_put(jnp.float32(arrays[2]), place))
  assert gradient.sharding.shard_shape(gradient.shape) == (
      E // 2, D // 2, J // 2)


def test_choice():
  assert expert_parallel.choose("cpu", 10**6) == "gather"
  assert expert_parallel.choose("tpu", 10**6) == "ragged"
  assert expert_parallel.choose("tpu", 16) == "gather"


def test_unknown_exchange():
  with pytest.raises(ValueError, match="'mail': choose one of auto, gather"):
    run("even", "expert", "mail")
