"""Parameters from one layout to the other and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.accounting import hlo_text
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.sharding import rules
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import reshard
from r1jax.training.reshard import make_reshard
from tests.training import cases

SHAPES = [dict(data=1, fsdp=4, tensor=2), dict(data=1, fsdp=2, expert=4),
          dict(data=2, fsdp=2, sequence=2)]


def placed(mesh, layout="train"):
  model = cases.model("tiny")
  params = cases.parameters("tiny")[0]
  return model, jax.device_put(params, rules.param_shardings(
      model.param_axes(), params, mesh, layout))


@pytest.mark.parametrize("shape", [None, *SHAPES], ids=str)
def test_there_and_back_is_bit_equal(shape):
  if shape is None:
    mesh, model = None, cases.model("tiny")
    params = jax.device_put(cases.parameters("tiny")[0])
  else:
    mesh = make_mesh(MeshConfig(**shape))
    model, params = placed(mesh)
  there = make_reshard(model, mesh, "decode", donate=True)
  back = make_reshard(model, mesh, "train", donate=True)
  decoding = there(params)
  assert len(decoding["mixture_blocks"]) == model.cfg.n_mixture_layers
  if mesh is not None:
    want = rules.param_shardings(
        model.param_axes(decoding), decoding, mesh, "decode")
    jax.tree.map(
        lambda x, place: x.sharding.is_equivalent_to(place, x.ndim) or
        pytest.fail(f"{x.sharding} is not {place}"), decoding, want)
  again = back(decoding)
  assert all(x.is_deleted() for x in jax.tree.leaves((params, decoding)))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again),
               cases.parameters("tiny")[0])


def test_halves_of_the_up_projection_are_split_by_heads():
  model = build(presets.BASE_ARITH)
  attn = reshard.shardings(
      model, make_mesh(MeshConfig(data=1, fsdp=4, expert=2)), jax.eval_shape(
          model.init, jax.random.key(0)))["mixture_blocks"][0]["attn"]
  assert [attn[name].spec[0] for name in ("w_uk", "w_uv", "w_o")] == (
      [("fsdp", "tensor")] * 3)


def test_on_one_device_no_more_than_a_leaf_lies_there_twice(monkeypatch):
  """A model as large as half the memory can be sampled from."""
  model = cases.model("tiny")
  params = jax.tree.map(jnp.array, cases.parameters("tiny")[0])
  given, made, most = jax.tree.leaves(params), [], []
  parts = reshard._parts

  def watched(x, **how):
    made.append(parts(x, **how))
    most.append(sum(a.nbytes for a in (*given, *jax.tree.leaves(made))
                    if not a.is_deleted()))
    return made[-1]

  monkeypatch.setattr(reshard, "_parts", watched)
  make_reshard(model, None, "decode", donate=True)(params)
  sizes = [x.nbytes for x in given]
  assert len(made) == len(given) > 5
  assert max(most) <= sum(sizes) + max(sizes)


def test_decoding_has_matrices_in_the_compute_dtype():
  model = build(presets.TINY, Compute(dtype="bfloat16"))
  params = cases.parameters("tiny")[0]
  got = make_reshard(model, None, "decode")(params)
  given_up = make_reshard(model, None, "decode", donate=True)(
      jax.tree.map(jnp.array, params))
  jax.tree.map(np.testing.assert_array_equal, given_up, got)
  assert jax.tree.map(lambda x: x.dtype, given_up) == jax.tree.map(
      lambda x: x.dtype, got)
  kinds = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(got):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    kinds.setdefault(str(leaf.dtype), set()).add(name)
  assert "w_router" in kinds["float32"] and "embed" in kinds["bfloat16"]
  assert all(name == "w_router" or "norm" in name for name in kinds["float32"])
  # What the products would have made of them.
  tokens = jnp.arange(8, dtype=jnp.int32).reshape(1, 8)
  bias = cases.parameters("tiny")[1]
  forward = jax.jit(model.forward)
  outs = [forward(p, bias, tokens, tokens, jnp.ones_like(tokens))
          for p in (params, model.stack(got))]
  np.testing.assert_array_equal(outs[0].hidden_BTD, outs[1].hidden_BTD)


def test_a_tied_embedding_decodes_as_a_head_on_a_cpu():
  """Else its product would make a float32 copy of it for every token."""
  name = "tiny-dense"
  model = build(dataclasses.replace(presets.get(name), tie_embeddings=True),
                Compute(dtype="bfloat16", param_dtype="bfloat16"))
  made = model.init(jax.random.key(0))
  want = jax.device_get(made)
  params = make_reshard(model, None, "decode", donate=True)(made)
  assert "embed" not in params
  np.testing.assert_array_equal(params["w_head"], want["embed"].T)
  copied = make_reshard(model, None, "decode")(want)
  jax.tree.map(np.testing.assert_array_equal, params, copied)
  # Tokens are looked up in it as in the table.
  bias, tokens = model.init_router_bias(), jnp.arange(8)[None]
  got, plain = (model.prefill(p, bias, tokens, jnp.full(1, 8))[:2]
                for p in (params, model.unstack(want)))
  jax.tree.map(np.testing.assert_array_equal, got, plain)
  again = make_reshard(model, None, "train", donate=True)(params)
  jax.tree.map(np.testing.assert_array_equal, again, want)


def test_no_array_is_gathered_whole():
  """Widths move by all-to-all; the largest gather is a part of a leaf."""
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  model = build(presets.BASE_ARITH)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  params = jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes, rules.param_shardings(model.param_axes(), shapes, mesh))
  text = make_reshard(model, mesh, "decode").lower(params).compile().as_text()
  program, _ = hlo_text.parse(text)
  gathers = [i.bytes for lines in program.values() for i in lines
             if i.opcode == "all-gather"]
  exchanged = [i for lines in program.values() for i in lines
               if i.opcode == "all-to-all"]
  # Those that decoding holds whole: the down-projections of attention.
  whole = max(x.size for path, x in jax.tree_util.tree_leaves_with_path(shapes)
              if jax.tree_util.keystr(path[-1:], simple=True) in
              ("w_dq", "w_dkv", "w_router", "w_join")) * 4
  assert exchanged and max(gathers) <= whole
