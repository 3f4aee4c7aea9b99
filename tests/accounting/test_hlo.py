"""Costs read from HLO text: of real programs, and of lines in a TPU's forms."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.accounting import hlo
from r1jax.ops import cached
from r1jax.ops.cached import BLOCK
from r1jax.sharding.mesh import MeshConfig, make_mesh


def compiled(f, *shapes, mesh=None, specs=None):
  args = [jax.ShapeDtypeStruct(
      s, jnp.float32,
      sharding=NamedSharding(mesh, specs[i]) if mesh else None)
          for i, s in enumerate(shapes)]
  return hlo.costs(jax.jit(f).lower(*args).compile().as_text())


def test_products_count_as_often_as_their_loop_runs():
  m, k, n, layers = 24, 40, 40, 7

  def f(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  found = compiled(f, (m, k), (layers, k, n))
  assert found.flops == 2 * m * k * n * layers
  assert found.dynamic == () and found.collectives == {}
  once = compiled(lambda x, w: x @ w, (m, k), (k, n))
  assert once.flops == 2 * m * k * n


def test_batched_products():
  found = compiled(lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
                   (3, 10, 20), (3, 20, 30))
  assert found.flops == 2 * 3 * 10 * 20 * 30


def test_a_loop_of_unknown_count():
  def f(x, n):
    with jax.named_scope("turns"):
      return jax.lax.fori_loop(0, n.astype(int)[0], lambda _, y: y @ y, x)

  args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 8), (1,))]
  text = jax.jit(f).lower(*args).compile().as_text()
  unknown = hlo.costs(text)
  assert unknown.flops == 2 * 8**3 and len(unknown.dynamic) == 1
  assert "turns" in unknown.dynamic[0]
  known = hlo.costs(text, {"turns": 2.5})
  assert known.flops == 5 * 8**3 and known.dynamic == ()


def test_loops_within_a_loop():
  """Each has its own count, and what names the outer one names it alone."""
  def f(x, n):
    def inner(y):
      return jax.lax.fori_loop(0, n[1], lambda _, z: z @ z, y)

    def outer(_, y):
      with jax.named_scope("within"):
        y = inner(y)
      return inner(jnp.tanh(y)) @ y

    with jax.named_scope("around"):
      return jax.lax.fori_loop(0, n[0], outer, x)

  args = [jax.ShapeDtypeStruct(*s) for s in (
      ((8, 8), jnp.float32), ((2,), jnp.int32))]
  text = jax.jit(f).lower(*args).compile().as_text()
  product = 2 * 8**3
  found = hlo.costs(text, {"within": 5, "around": 3})
  assert found.flops == 3 * (5 + 1 + 1) * product
  assert len(found.dynamic) == 1 and "within" not in found.dynamic[0]


def test_bytes_of_a_product_and_of_a_slice_of_a_stack():
  m, k, n = 32, 48, 16
  found = compiled(lambda x, w: x @ w, (m, k), (k, n))
  assert found.touched == 4 * (m * k + k * n + m * n)
  # Each turn reads its own layer, not the whole stack.
  layers = 50
  found = compiled(
      lambda x, w: jax.lax.scan(lambda x, w: (x + w, None), x, w)[0],
      (1000,), (layers, 1000))
  assert 4 * 1000 * layers * 2 < found.touched < 4 * 1000 * layers * 6


def test_a_scatter_into_a_cache_touches_what_it_writes():
  """Of rows that write at places of their own, alone or within a fusion."""
  rows, slots, width, turns = 8, 500, 20, 3

  def put(cache, new, at):
    return jax.vmap(lambda row, x, at: jax.lax.dynamic_update_slice(
        row, x[None], (at, 0)))(cache, new, at)

  def f(cache, new, at):
    return jax.lax.fori_loop(
        0, turns, lambda i, c: put(c, new + i, at + i), cache)

  shapes = [jax.ShapeDtypeStruct(s, d) for s, d in (
      ((rows, slots, width), jnp.float32), ((rows, width), jnp.float32),
      ((rows,), jnp.int32))]
  program = jax.jit(f, donate_argnums=0).lower(*shapes).compile()
  text = program.as_text()
  assert "scatter" in text
  written = 4 * rows * width
  assert turns * written < hlo.costs(text).touched < turns * 10 * written
  # Whereas the cache is fifty times as much.
  assert turns * 10 * written < 4 * rows * slots * width


@pytest.mark.parametrize("tokens,passes", [(1, 1), (128, 2)])
def test_paged_attention_reads_the_blocks_that_the_caller_gives(tokens, passes):
  """Of 3 rows with 4 blocks of 512 slots; 2 heads of keys, 28 of queries."""
  queries, cache = f"bf16[{3 * tokens},28,128]", "bf16[12,512,4,128]"
  attributes = (
      'custom_call_target="tpu_custom_call", metadata={op_name='
      '"jit(f)/cache_blocks/jit(ragged_paged_attention)/kernel"}')
  text = f"""
ENTRY %main (a: s32[3], b: s32[3,4], q: {queries}, c: {cache}) -> {queries} {{
  %a = s32[3] parameter(0)
  %b = s32[3,4] parameter(1)
  %q = {queries} parameter(2)
  %c = {cache} parameter(3)
  ROOT %k = {queries} custom-call(%a, %b, %a, %a, %a, %q, %c), {attributes}
}}
"""
  slot, asked = 2 * 4 * 128, 2 * 3 * tokens * 28 * 128
  found = hlo.costs(text, {"cache_blocks": 2.5})
  assert found.flops == 2 * 2 * 3 * tokens * 28 * 128 * 2.5 * 512
  assert found.touched == passes * 3 * 2.5 * 512 * slot + 2 * asked
  assert found.dynamic == ()
  # Without the number, one block of each row is counted, and it is said.
  found = hlo.costs(text)
  assert found.touched == passes * 3 * 512 * slot + 2 * asked
  assert "cache_blocks" in found.dynamic[0]


def test_a_slice_within_a_fusion_within_a_fusion():
  """So a TPU's product reads a block of a cache; another passes all of it on.
  """
  slots, block, width = 4000, 500, 30
  whole, part = f"f32[{slots},{width}]", f"f32[{block},{width}]"
  row, out = f"f32[{width}]", f"f32[{block}]"
  text = f"""
%cut (a: {whole}, at: s32[]) -> {part} {{
  %a = {whole} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = {part} dynamic-slice(%a, %at, %zero)
}}
%same (b: {row}) -> {row} {{
  ROOT %b = {row} parameter(0)
}}
%product (c: {whole}, d: {row}, e: s32[]) -> {out} {{
  %c = {whole} parameter(0)
  %d = {row} parameter(1)
  %e = s32[] parameter(2)
  %part = {part} fusion(%c, %e), kind=kLoop, calls=%cut
  %row = {row} fusion(%d), kind=kLoop, calls=%same
  ROOT %p = {out} custom-call(%part, %row)
}}
ENTRY %main (x: {whole}, y: {row}, z: s32[]) -> {out} {{
  %x = {whole} parameter(0)
  %y = {row} parameter(1)
  %z = s32[] parameter(2)
  ROOT %f = {out} fusion(%x, %y, %z), kind=kOutput, calls=%product
}}
"""
  touched = hlo.costs(text).touched
  exact = 4 * (block * width + width + block)
  assert exact <= touched <= exact + 8  # and the place


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce", "reduce-scatter"])
def test_collectives_of_a_mesh(kind):
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  size, ways = 64 * 8 * 4, 4

  def local(x):
    if kind == "all-gather":
      return jax.lax.all_gather(x, "fsdp", tiled=True)
    if kind == "all-reduce":
      return jax.lax.psum(x, "fsdp")
    return jax.lax.psum_scatter(x, "fsdp", tiled=True)

  spec = P("fsdp") if kind == "all-gather" else P()
  out = P("fsdp") if kind == "reduce-scatter" else P()
  f = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=out,
                    check_vma=False)
  found = compiled(f, (64, 8), mesh=mesh, specs=[spec])
  want = size * (ways - 1) / ways * (2 if kind == "all-reduce" else 1)
  assert found.collectives == {kind: (1, want)}


TEXTS = pathlib.Path(__file__).parent
TPU = (TEXTS / "tpu.hlo").read_text()


def test_the_forms_that_a_tpu_writes():
  found = hlo.costs(TPU)
  turns = 5 - 2
  # Of the padded window's four positions one lies inside for each batch.
  batched = 2 * 4 * 64 * 96 * 16
  # Of a kernel of attention half the pairs; in a loop its name is lost.
  splash = 2 * 40 * 56 * (2 * 24 + 2 * 16)
  assert found.flops == turns * (
      2 * 64 * 96 * 32 + 1000 + splash) + batched
  assert found.collectives == {
      "all-gather": (turns, turns * 64 * 96 * 2 * 3 / 4),
      "ragged-all-to-all": (1, 64 * 96 * 2 * 3 / 4)}
  assert found.dynamic == ()


def test_what_a_tpu_has_in_its_vector_memory():
  """Is not read from memory, nor written there.

  A weight of two parts is fetched ahead of the product that needs it, whose
  result goes into a row of a cache and is copied out. Rows that are in memory
  go into others of the cache. Another array is copied in, added to the result
  there, and added again from memory to memory.
  """
  found = hlo.costs((TEXTS / "vmem.hlo").read_text())
  x, w, y = 2 * 64 * 96, 2 * 96 * 32, 2 * 64 * 32
  rows = 2 * 5 * 64 * 32
  z = y
  assert found.touched == x + w + y + y + 2 * rows + z + 2 * z
  assert found.flops == 2 * 64 * 96 * 32


@pytest.mark.parametrize("turns", [1, 3])
def test_a_loop_over_near_blocks_reads_the_cache_once(turns, monkeypatch):
  """Two products read each block; a CPU has it near after the first.

  A larger block than what stays near is read, written, and read twice.
  """
  rows, slots, heads, width = 3, 1600, 8, 64
  assert rows * slots * width * 4 < hlo.NEAR  # the cache counts nevertheless
  spec = cached.Heads(
      lambda q, part: jnp.einsum("bnx,bsx->bns", q, part),
      lambda weights, part: jnp.einsum("bns,bsx->bnx", weights, part),
      lambda lengths_B: lengths_B[:, None], 1, width)

  def touched(trips):
    shape = jax.ShapeDtypeStruct
    text = jax.jit(lambda q, cache, lengths: cached.over_slots(
        spec, q, cache, 1, lengths, cached.Reading(0, BLOCK))).lower(
            shape((rows, heads, width), jnp.float32),
            shape((rows, slots, width), jnp.float32),
            shape((rows,), jnp.int32)).compile().as_text()
    found = hlo.costs(text, {cached.BLOCKS: trips})
    assert not found.dynamic
    return found.touched

  block = BLOCK * width * 4
  read = rows * turns * block
  assert read < touched(turns) < 1.2 * read
  monkeypatch.setattr(hlo, "NEAR", block - 1)
  assert 4 * read < touched(turns) < 5 * read


def test_text_without_an_entry():
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.costs("HloModule nothing")


def test_against_xlas_own_count_of_what_has_no_loop():
  def f(x, w, v):
    return jnp.sum((jax.nn.silu(x @ w) @ v) ** 2)

  shapes = [jax.ShapeDtypeStruct(s, jnp.float32)
            for s in ((64, 96), (96, 160), (160, 32))]
  program = jax.jit(jax.grad(f, (1, 2))).lower(*shapes).compile()
  ours = hlo.costs(program.as_text())
  theirs = program.cost_analysis()
  np.testing.assert_allclose(ours.flops, theirs["flops"], rtol=0.05)
