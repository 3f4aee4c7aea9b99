"""Attention over a mesh, and what is in memory at lengths that matter."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.ops import flash, flash_splash, mla
from r1jax.ops.attention import Segments
from r1jax.sharding.mesh import Place
from tests import topologies

F32 = dict(rtol=1e-5, atol=1e-5)
SCALE = 0.3
AXES = "rows", "heads", "queries"
SPEC = P(*AXES)


def _mesh(devices, shape):
  return Mesh(np.reshape(devices, shape), AXES,
              axis_types=(AxisType.Auto,) * 3)


def _program(attend):
  """Compiled (q, k, v, segments, dout) -> (out, gradients)."""
  def program(q, k, v, segments, dout):
    out, pull = jax.vjp(lambda *qkv: attend(*qkv, segments), q, k, v)
    return out, *pull(dout)
  return jax.jit(program)


def _whole(form, q, k, v, segments, **kwargs):
  return flash.attend(
      form, q, k, v, Segments.whole(segments), SCALE, **kwargs)


def _over_mesh(form, q, k, v, segments, **kwargs):
  return flash.sharded(form, q, k, v, segments, SCALE, SPEC,
                       Place.here().axes, **kwargs)


def _arrays(b, n, k, t, seed=0):
  rng = np.random.default_rng(seed)
  shapes = (b, n, t, 5), (b, k, t, 5), (b, k, t, 7), (b, n, t, 7)
  q, keys, v, dout = (np.float32(rng.normal(size=s)) for s in shapes)
  segments = np.sort(rng.integers(1, 4, (b, t)), 1).astype(np.int32)
  segments[:, -3:] = 0
  return q, keys, v, segments, dout


# Sizes B, N, K, T and a mesh: all split; key heads that the mesh does not
# divide, fewer and more than its parts; nothing divided; queries alone.
MESHES = [
    ((2, 8, 4, 24), (2, 2, 2)), ((1, 8, 2, 24), (1, 4, 2)),
    ((1, 12, 6, 22), (1, 4, 2)), ((3, 6, 3, 21), (2, 4, 1)),
    ((1, 2, 1, 24), (1, 1, 8))]


@pytest.mark.parametrize("sizes, shape", MESHES)
@pytest.mark.parametrize("form, block", [("naive", 512), ("blocks", 4)])
def test_over_a_mesh_as_on_one_device(sizes, shape, form, block):
  program = _program(functools.partial(_over_mesh, form, block=block))
  expected = _program(functools.partial(_whole, "naive"))
  for seed in (0, 1):
    arrays = _arrays(*sizes, seed=seed)
    with jax.set_mesh(_mesh(jax.devices(), shape)):
      found = jax.block_until_ready(program(*arrays))
    for got, want in zip(found, expected(*arrays), strict=True):
      np.testing.assert_allclose(got, want, **F32)
  assert program._cache_size() == 1
  rows, heads, queries = (
      name if size % ways == 0 and ways > 1 else None
      for name, size, ways in zip(AXES, (sizes[0], sizes[1], sizes[3]), shape))
  assert found[0].sharding.is_equivalent_to(
      NamedSharding(_mesh(jax.devices(), shape), P(rows, heads, queries)), 4)


def test_splash_over_a_mesh(monkeypatch):
  monkeypatch.setattr(flash_splash, "attend", functools.partial(
      flash_splash.attend, interpret=True))
  arrays = _arrays(2, 4, 2, 512)
  with jax.set_mesh(_mesh(jax.devices(), (2, 2, 2))):
    found = jax.block_until_ready(_program(functools.partial(
        _over_mesh, "splash", block=128))(*arrays))
  expected = _program(functools.partial(_whole, "naive"))(*arrays)
  for got, want in zip(found, expected, strict=True):
    np.testing.assert_allclose(got, want, **F32)


def test_inside_a_shard_map_over_the_rows():
  arrays = _arrays(2, 8, 4, 24)
  expected = _program(functools.partial(_whole, "naive"))(*arrays)

  def outer(q, k, v, segments):
    return jax.shard_map(
        functools.partial(_over_mesh, "blocks", block=4),
        in_specs=(P("rows"),) * 4, out_specs=P("rows"), axis_names={"rows"},
        check_vma=False)(q, k, v, segments)

  with jax.set_mesh(_mesh(jax.devices(), (2, 2, 2))):
    found = jax.block_until_ready(_program(outer)(*arrays))
  for got, want in zip(found, expected, strict=True):
    np.testing.assert_allclose(got, want, **F32)


def test_the_compiler_splits_blocks_without_gathering():
  """Rows and heads split, and no mesh in use that `sharded` would see."""
  mesh = _mesh(jax.devices(), (2, 4, 1))
  where = P("rows", "heads")
  arrays = _arrays(4, 8, 4, 24)
  shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(
      mesh, where if a.ndim == 4 else P("rows"))) for a in arrays]
  text = _program(functools.partial(_whole, "blocks", block=4)).lower(
      *shapes).compile().as_text()
  assert "all-reduce" in text  # which blocks any row needs: [6, 6] booleans
  assert not re.search("all-gather|all-to-all|collective-permute", text)


def _square(text, length):
  """Shapes in a compiled program with two dimensions of at least `length`."""
  shapes = set(re.findall(r"\[([\d,]+)\]", text))
  return [shape for shape in shapes if sum(
      int(size) >= length for size in shape.split(",")) > 1]


@pytest.mark.parametrize("form, square", [("blocks", False), ("naive", True)])
def test_nothing_of_length_squared_at_8192(form, square):
  t = 8192
  q, k, v, dout = (jax.ShapeDtypeStruct((1, heads, t, width), jnp.float32)
                   for heads, width in ((4, 48), (2, 48), (2, 32), (4, 32)))
  segments = jax.ShapeDtypeStruct((1, t), jnp.int32)
  compiled = _program(functools.partial(_whole, form)).lower(
      q, k, v, segments, dout).compile()
  assert bool(_square(compiled.as_text(), t)) == square
  temporaries = compiled.memory_analysis().temp_size_in_bytes
  # One float per pair and head would be 1,074 MB, all inputs are 16 MB.
  assert (temporaries > t * t * 4 * 4) == square
  assert (temporaries < 32e6) != square


# What is compiled for a TPU is kept, but cannot be read back without one.
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation")
@pytest.mark.parametrize("shape", [(1, 16, 1), (1, 8, 2)])
def test_latent_attention_of_32k_tokens_compiles_for_a_tpu(shape):
  """The widths of V3, one row of 32,768 tokens, 128 heads on 16 chips."""
  mesh = _mesh(topologies.tpu("v5e:4x4"), shape)
  t, n, nope, rope, rank, w = 32768, 128, 128, 64, 512, 128

  def array(size, *where, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(
        size, dtype, sharding=NamedSharding(mesh, P(*where)))

  def program(segments, dout, *args):
    attend = lambda q, k, v: _over_mesh("splash", q, k, v, segments)
    out, pull = jax.vjp(lambda *a: mla.naive(*a, attend), *args)
    return out, pull(dout)

  by_head = "rows", "queries", "heads"
  with jax.set_mesh(mesh):
    compiled = jax.jit(program).lower(
        array((1, t), "rows", dtype=jnp.int32),
        array((1, t, n, w), *by_head), array((1, t, n, nope), *by_head),
        array((1, t, n, rope), *by_head), array((1, t, rank), "rows"),
        array((1, t, rope), "rows"),
        array((rank, n, nope + w), None, "heads")).compile()
  text = compiled.as_text()
  assert text.count("tpu_custom_call") == 3
  # Queries are split in one of the meshes: no shape is [T/2, T] either.
  assert not _square(text, t // shape[2])
  # The scores of a chip, in bfloat16, would be 17 GB in each mesh.
  scores = 2 * t * t * n // 16
  assert compiled.memory_analysis().temp_size_in_bytes < scores / 8
