import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops.embedding import lookup
from r1jax.sharding.mesh import MeshConfig, make_mesh

F32 = dict(rtol=1e-5, atol=1e-6)
ROUNDED = dict(rtol=2**-8, atol=0)  # once to bfloat16
B, T, V, D = 8, 512, 32, 16


def case():
  """Tokens of which one occurs thousands of times."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(V, size=(B, T)).astype(np.int32)
  tokens[rng.uniform(size=(B, T)) < 0.8] = 3
  assert (tokens == 3).sum() > 3000
  table = rng.normal(size=(V, D))
  return table, tokens, 1 + 0.1 * rng.normal(size=(B, T, D))


def reference(tokens, slopes):
  """float64, token by token."""
  out = np.zeros((V, D))
  for b in range(B):
    for t in range(T):
      out[tokens[b, t]] += slopes[b, t]
  return out


def gradient(look, table, tokens, slopes):
  return jax.jit(jax.grad(
      lambda table: jnp.sum(look(table, tokens) * slopes)))(table)


@pytest.mark.parametrize("dtype,close", [("float32", F32),
                                         ("bfloat16", ROUNDED)])
def test_every_occurrence_counts(dtype, close):
  table, tokens, slopes = (jnp.asarray(x) for x in case())
  table, slopes = table.astype(dtype), slopes.astype(dtype)
  np.testing.assert_array_equal(lookup(table, tokens), table[tokens])
  got = gradient(lookup, table, tokens, slopes)
  assert got.dtype == dtype
  want = reference(tokens, np.float64(slopes))
  np.testing.assert_allclose(np.float64(got), want, **close)


def test_teeth():
  """Autodiff's own sum in bfloat16 loses most of a frequent token."""
  table, tokens, slopes = (jnp.asarray(x) for x in case())
  table, slopes = table.astype("bfloat16"), slopes.astype("bfloat16")
  got = gradient(lambda table, at: table[at], table, tokens, slopes)
  want = reference(tokens, np.float64(slopes))
  assert np.all(np.float64(got)[3] < 0.5 * want[3])


def test_one_token_a_row():
  """As decoding looks up."""
  table, tokens, _ = case()
  table = jnp.float32(table)
  np.testing.assert_array_equal(lookup(table, tokens[0]), table[tokens[0]])


@pytest.mark.parametrize("dtype,close", [("float32", F32),
                                         ("bfloat16", ROUNDED)])
def test_on_a_mesh(dtype, close):
  table, tokens, slopes = case()
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  placed = [jax.device_put(jnp.asarray(x), jax.NamedSharding(mesh, place))
            for x, place in ((np.float32(table), jax.P("tensor", "fsdp")),
                             (tokens, jax.P(("data", "fsdp"))),
                             (np.float32(slopes), jax.P(("data", "fsdp"))))]
  table, tokens, slopes = placed
  table, slopes = table.astype(dtype), slopes.astype(dtype)
  with jax.set_mesh(mesh):
    got = gradient(lookup, table, tokens, slopes)
  want = reference(np.asarray(tokens), np.float64(slopes))
  np.testing.assert_allclose(np.float64(got), want, **close)
