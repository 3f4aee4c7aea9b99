import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import experts
from r1jax.ops.linear import Adapted
from tests.reference import experts as reference
from tests.reference import lora

F32 = dict(rtol=1e-5, atol=1e-6)
# Central differences in float64 are good to 1e-9; the rest is float32.
GRADIENT = dict(rtol=1e-4, atol=1e-5)
# Compiles in half the time; the programs run once.
FAST = {"xla_backend_optimization_level": "0"}
FORMS = ("gmm", "ragged", "blocks", "dense")
D, J, E, A = 3, 4, 6, 2


def _case(n_tokens, chosen, seed=0):
  """Float arrays (x, gates, w_gate, w_up, w_down), a direction and experts."""
  rng = np.random.default_rng(seed)
  arrays = [rng.normal(size=shape) for shape in (
      (n_tokens, D), (n_tokens, len(chosen[0])), (E, D, J), (E, D, J),
      (E, J, D))]
  return arrays, rng.normal(size=(n_tokens, D)), np.array(chosen, np.int32)


CASES = {
    "spread": _case(7, [[0, 3], [5, 1], [3, 2], [1, 0], [2, 5], [0, 1],
                        [3, 0]]),
    "all_to_one_expert": _case(21, [[4]] * 21),
    "fewer_pairs_than_experts": _case(1, [[5, 2]]),
    "first_and_last_only": _case(7, [[5, 0]] * 7),
}


@functools.cache
def _program(form):
  def value(x, gates, w_gate, w_up, w_down, chosen, direction):
    y = experts.routed(form, x, chosen, gates, w_gate, w_up, w_down,
                       interpret=True)
    return jnp.sum(y * direction), y
  return jax.jit(jax.value_and_grad(value, range(5), has_aux=True),
                 compiler_options=FAST)


def _value(form):
  return jax.jit(functools.partial(experts.routed, form, interpret=True),
                 compiler_options=FAST)


@functools.cache
def _expected(name):
  (x, gates, *w), direction, chosen = CASES[name]
  y = reference.routed(x, chosen, gates, *w)
  return y, reference.gradients(direction, [x, gates, *w], chosen)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(form, name):
  arrays, direction, chosen = CASES[name]
  (_, y), gradients = _program(form)(
      *map(jnp.float32, arrays), jnp.asarray(chosen), jnp.float32(direction))
  expected_y, expected = _expected(name)
  np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-5)
  for got, want in zip(gradients, expected, strict=True):
    np.testing.assert_allclose(got, want, **GRADIENT)


@functools.cache
def _adapted():
  """Factors of the three projections, and what their sums give."""
  rng = np.random.default_rng(8)
  (x, gates, *w), direction, chosen = CASES["spread"]
  factors = [(rng.normal(size=(*m.shape[:2], 2)),
              rng.normal(size=(E, 2, m.shape[2]))) for m in w]
  sums = [lora.merge("w_up", m, a, b, 0.5)
          for m, (a, b) in zip(w, factors, strict=True)]
  y = reference.routed(x, chosen, gates, *sums)
  dx, dgates, *dw = reference.gradients(direction, [x, gates, *sums], chosen)
  pairs = [lora.gradients("w_up", d, a, b, 0.5)
           for d, (a, b) in zip(dw, factors, strict=True)]
  return factors, y, (dx, dgates, dw, pairs)


@pytest.mark.parametrize("form", FORMS)
def test_adapted(form):
  """Routed experts with an adapter each: values and all gradients."""
  (x, gates, *w), direction, chosen = CASES["spread"]
  factors, want_y, want = _adapted()
  assert np.abs(want_y - _expected("spread")[0]).max() > 0.1

  def value(x, gates, w, pairs):
    y = experts.routed(form, x, jnp.asarray(chosen), gates, *(
        Adapted(m, a, b, 0.5) for m, (a, b) in zip(w, pairs, strict=True)),
                       interpret=True)
    return jnp.sum(y * jnp.float32(direction)), y

  run = jax.jit(jax.value_and_grad(value, range(4), has_aux=True),
                compiler_options=FAST)
  (_, y), got = run(*jax.tree.map(jnp.float32, (x, gates, w, factors)))
  np.testing.assert_allclose(y, want_y, rtol=1e-5, atol=2e-5)
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("broken", ["gates", "last"])
def test_case_sees_gates_and_every_expert(broken):
  (x, gates, *w), _, chosen = CASES["spread"]
  y = reference.routed(x, chosen, gates, *w, drop={broken})
  assert np.abs(y - _expected("spread")[0]).max() > 1e-2


def test_blocks_of_every_size_agree_with_dense():
  """Pair counts on both sides of every size the blocks can take."""
  rng = np.random.default_rng(6)
  w = [jnp.float32(rng.normal(size=s))
       for s in ((E, D, J), (E, D, J), (E, J, D))]
  sizes = set()
  for n_tokens in (1, 193, 1600):
    n_pairs = n_tokens * A
    sizes.add(experts._block_size(n_pairs, E))
    x = jnp.float32(rng.normal(size=(n_tokens, D)))
    # Unequal loads: experts 0 and 1 take most tokens.
    order = np.argsort(rng.random((n_tokens, E)) * np.arange(1, E + 1)[None])
    chosen = jnp.asarray(order[:, :A], jnp.int32)
    gates = jnp.float32(rng.random((n_tokens, A)))
    a, b = (_value(form)(x, chosen, gates, *w) for form in ("blocks", "dense"))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  assert len(sizes) >= 3


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16(form):
  (x, gates, *w), _, chosen = CASES["spread"]
  y = _value(form)(
      jnp.bfloat16(x), jnp.asarray(chosen), jnp.float32(gates),
      *map(jnp.float32, w))
  assert y.dtype == jnp.bfloat16
  expected = _expected("spread")[0]
  error = np.abs(np.asarray(y, np.float64) - expected).max()
  assert error < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMS)
def test_the_expert_that_is_none(form):
  """Its pairs add nothing, in either direction, whatever its gate."""
  (x, gates, *w), direction, chosen = CASES["spread"]
  absent = chosen == 3
  x, direction = jnp.float32(x), jnp.float32(direction)

  def value(x, gates, *w):
    y = experts.routed(form, x, jnp.where(absent, E, chosen), gates, *w,
                       absent=True, interpret=True)
    return jnp.sum(y * direction), y

  operands = (x, *map(jnp.float32, (gates, *w)))
  (_, y), got = jax.value_and_grad(value, range(5), has_aux=True)(*operands)
  kept = np.where(absent, 0.0, gates)
  np.testing.assert_allclose(
      y, reference.routed(np.float64(x), chosen, kept, *w), rtol=1e-5,
      atol=1e-5)
  want = reference.gradients(np.float64(direction), [
      np.float64(x), kept, *w], chosen)
  want[1][absent] = 0.0
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, **GRADIENT)


@pytest.mark.parametrize("name", CASES)
def test_capacity(name):
  """The expert that has all of 21 tokens takes two rounds, others one."""
  (x, gates, *w), _, chosen = CASES[name]
  size = experts.capacity(*chosen.shape, E)
  rounds = -(-np.bincount(chosen.reshape(-1)).max() // size)
  assert rounds == (2 if name == "all_to_one_expert" else 1)
  y = _value("capacity")(jnp.float32(x), jnp.asarray(chosen),
                         *map(jnp.float32, (gates, *w)))
  np.testing.assert_allclose(y, _expected(name)[0], rtol=1e-5, atol=1e-5)


def test_capacity_with_adapters_in_bfloat16_and_without_an_expert():
  (x, gates, *w), _, chosen = CASES["spread"]
  x, gates, w = jax.tree.map(jnp.float32, (x, gates, w))
  factors, want_y, _ = _adapted()
  adapted = [Adapted(m, *map(jnp.float32, pair), 0.5)
             for m, pair in zip(w, factors, strict=True)]
  y = _value("capacity")(x, jnp.asarray(chosen), gates, *adapted)
  np.testing.assert_allclose(y, want_y, rtol=1e-5, atol=2e-5)

  want_y = _expected("spread")[0]
  y = _value("capacity")(jnp.bfloat16(x), jnp.asarray(chosen), gates, *w)
  assert y.dtype == jnp.bfloat16
  error = np.abs(np.asarray(y, np.float64) - want_y).max()
  assert error < 0.03 * np.abs(want_y).max()

  absent = chosen == 3
  y = experts.routed("capacity", x, jnp.where(absent, E, chosen), gates, *w,
                     absent=True)
  want_y = reference.routed(np.float64(x), chosen, np.where(
      absent, 0.0, gates), *map(np.float64, w))
  np.testing.assert_allclose(y, want_y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens, size", [
    (1, 0), (3, 0), (4, 4), (8, 4), (16, 8), (64, 16), (680, 128), (683, 0)])
def test_capacity_follows_the_mean_load(tokens, size):
  """6 of 64 experts a token; no expert has more than all tokens."""
  assert experts.capacity(tokens, 6, 64) == size


def test_unknown_form():
  arrays = [jnp.zeros((1, 1))] * 3 + [jnp.zeros((1, 1, 1))] * 3
  with pytest.raises(ValueError, match="'loop': choose one of ragged, gmm"):
    experts.routed("loop", *arrays)


def test_choice_per_backend():
  assert [experts.choose(b) for b in ("cpu", "gpu", "tpu")] == [
      "blocks", "ragged", "gmm"]
  assert [experts.choose(b, "decode") for b in ("cpu", "gpu", "tpu")] == [
      "capacity", "ragged", "gmm"]
