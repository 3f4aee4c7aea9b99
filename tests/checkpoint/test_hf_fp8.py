"""FP8 in the files: values, shards, what is quantised, and round trips."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest

from r1jax.checkpoint import hf_io
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.ops import fp8
from r1jax.sharding import rules
from r1jax.sharding.mesh import MeshConfig, make_mesh
from tests.checkpoint import hf_cases
from tests.models import cases
from tests.reference import fp8 as reference

# Matrices of more than one block, partial ones at both edges.
CFG = dataclasses.replace(
    cases.V3, d_model=136, d_ff=150, n_layers=2, d_expert=130, n_experts=4,
    n_heads=9, v_dim=16, n_groups=2, n_activated=2, q_rank=0)
DOWN = "model.layers.1.mlp.experts.3.down_proj.weight"
KV_B = "model.layers.1.self_attn.kv_b_proj.weight"


def model(param_dtype="bfloat16"):
  return build(CFG, Compute(param_dtype=param_dtype))


def quantised(made, power_of_two):
  """The tensors with every projection of a block as FP8 and its scales."""
  out, rng = {}, np.random.default_rng(1)
  for name, array in made.items():
    block = ".self_attn." in name or ".mlp." in name
    if not (block and "proj" in name and array.ndim == 2):
      out[name] = array
      continue
    codes, scales = fp8.quantise(array)
    if power_of_two:
      scales = np.exp2(rng.integers(-14, -6, scales.shape)).astype(np.float32)
    out[name], out[name + "_scale_inv"] = codes, scales
  return out


@pytest.fixture(scope="module", params=["powers", "any"])
def files(request, tmp_path_factory):
  """(tensors, folder) of an FP8 checkpoint."""
  made = quantised(hf_cases.tensors(CFG), request.param == "powers")
  folder = tmp_path_factory.mktemp(request.param) / "m"
  return made, hf_cases.write(folder, made, 2), request.param


def values(made, name):
  return reference.dequantise(
      made[name].view(np.uint8), made[name + "_scale_inv"].astype(np.float64))


def test_values_of_blocks(files):
  made, folder, _ = files
  params, _ = hf_io.load(folder, model("float32"))
  block = params["mixture_blocks"]
  np.testing.assert_allclose(
      block["ffn"]["w_down"][0, 3], values(made, DOWN).T, rtol=1e-7)
  kv_b = values(made, KV_B).T.reshape(CFG.kv_rank, CFG.n_heads, -1)
  np.testing.assert_allclose(block["attn"]["w_ukv"][0], kv_b, rtol=1e-7)
  shifted = dict(made)  # the scales matter
  shifted[DOWN + "_scale_inv"] = 2 * made[DOWN + "_scale_inv"]
  assert np.abs(values(shifted, DOWN).T
                - block["ffn"]["w_down"][0, 3]).max() > 1e-3


def test_shards_cut_through_blocks(files, monkeypatch):
  """Shards of 34 and 65 columns begin in the middle of a block of 128."""
  monkeypatch.setattr(hf_io, "_CHUNK", 30_000)
  compute = model()
  whole, _ = hf_io.load(files[1], compute)
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, expert=1, tensor=2))
  params, _ = hf_io.load(files[1], compute, rules.param_shardings(
      compute.param_axes(), whole, mesh))
  for key in ("w_gate", "w_down"):
    np.testing.assert_array_equal(params["mixture_blocks"]["ffn"][key],
                                  whole["mixture_blocks"]["ffn"][key])
  np.testing.assert_array_equal(params["dense_blocks"]["attn"]["w_o"],
                                whole["dense_blocks"]["attn"]["w_o"])


def codes(found, name):
  """Codes as numbers in the order of their values."""
  bits = np.frombuffer(found[name][2], np.uint8).astype(int)
  return np.where(bits & 0x80, -(bits & 0x7f), bits)


def test_fp8_to_bfloat16_to_fp8(files, tmp_path):
  made, folder, kind = files
  params, bias = hf_io.load(folder, model())
  hf_io.save(tmp_path / "out", CFG, params, bias, fields={"a": 1}, fp8=True)
  found, expected = hf_cases.read(tmp_path / "out"), hf_cases.described(made)
  assert set(found) == set(expected)
  for name in expected:
    if found[name][0] != "F8_E4M3" and "_scale_inv" not in name:
      assert found[name] == expected[name], name
    elif kind == "powers":
      assert found[name] == expected[name], name
    else:
      assert found[name][:2] == expected[name][:2]
      if name + "_scale_inv" in expected:
        assert np.abs(codes(found, name) - codes(expected, name)).max() <= 1
  fields = json.loads((tmp_path / "out/config.json").read_text())
  assert fields == {"a": 1, "quantization_config": {
      "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
      "weight_block_size": [128, 128]}}


def test_broken_scales_are_named(files, tmp_path):
  made, scale = dict(files[0]), DOWN + "_scale_inv"
  broken = [
      ({scale: made[scale][:1]},
       f"different: {scale} is (1, 2), wanted (2, 2)"),
      ({scale: made[scale].astype(np.float16)},
       f"{scale} is stored as F16, wanted F32"),
      ({scale: np.full_like(made[scale], np.nan)}, f"{scale} in"),
      ({DOWN: np.full_like(made[DOWN], np.nan)}, f"{DOWN} in"),
      ({"model.layers.0.mlp.up_proj.weight_scale": np.ones(1, np.float32)},
       "superfluous: model.layers.0.mlp.up_proj.weight_scale (1,)")]
  for i, (change, message) in enumerate(broken):
    folder = hf_cases.write(tmp_path / str(i), made | change)
    with pytest.raises(ValueError) as caught:
      hf_io.load(folder, model())
    assert message in str(caught.value)
  del made[scale]
  with pytest.raises(ValueError, match=f"missing: {scale}"):
    hf_io.load(hf_cases.write(tmp_path / "none", made), model())


def test_scales_are_not_taken_for_weights_of_other_dtypes(files, tmp_path):
  """A bfloat16 weight with a scale left beside it is no FP8 checkpoint."""
  made = dict(files[0])
  made[DOWN] = made[DOWN].astype(ml_dtypes.bfloat16)
  with pytest.raises(ValueError, match=f"superfluous: {DOWN}_scale_inv"):
    hf_io.load(hf_cases.write(tmp_path / "m", made), model())
