"""Adapters leave for peft: the same logits there as merged here."""

import json
import os

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from r1jax.checkpoint import hf_config, hf_io, peft
from r1jax.core import io
from r1jax.models.model import build
from tests.models import cases

RELATIVE = 2e-5
RANK, ALPHA = 3, 5.0
TOKENS = np.random.default_rng(0).integers(0, 61, (2, 9))
POSITIONS = np.broadcast_to(np.arange(9), TOKENS.shape)


def adapter(cfg, names):
  """Random A and B of the matrices of every layer, and the merged tree."""
  rng = np.random.default_rng(3)
  params, tree = cases.f32(cases.params(cfg)), {}
  merged = jax.tree.map(np.copy, params)
  for stack in ("dense_blocks", "mixture_blocks"):
    for part, leaves in params.get(stack, {}).items():
      for name in set(names) & set(leaves if isinstance(leaves, dict) else ()):
        w = leaves[name]
        split = 3 if name == "w_o" else 2
        a = rng.normal(size=(*w.shape[:split], RANK)) * 0.2
        b = rng.normal(size=(w.shape[0], RANK, *w.shape[split:])) * 0.2
        for i in range(len(w)):
          product = a[i].reshape(-1, RANK) @ b[i].reshape(RANK, -1)
          merged[stack][part][name][i] += ALPHA / RANK * product.reshape(
              w[i].shape)
        tree.setdefault(stack, {}).setdefault(part, {})[name] = cases.f32(
            {"w_a": a, "w_b": b})
  return tree, merged


def logits(cfg, params):
  model = build(cfg)
  out = cases.jit(model.forward)(
      params, cases.f32(cases.bias(cfg)), TOKENS, POSITIONS,
      np.ones_like(TOKENS))
  return np.asarray(out.hidden_BTD @ model.head(params))


ALL = ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_down")


@pytest.mark.parametrize("names", [ALL, ("w_q", "w_o")], ids=["all", "two"])
def test_peft_gives_the_logits_of_the_merged_model(names, tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  theirs_lib = pytest.importorskip("peft")
  cfg = cases.DENSE
  params, (tree, merged) = cases.f32(cases.params(cfg)), adapter(cfg, names)
  fields = hf_config.to_hf(cfg, "qwen2", bos_id=1, eos_ids=[2],
                           dtype="float32")
  hf_io.save(tmp_path / "base", cfg, params, np.zeros((0, 0), np.float32),
             fields=fields, dtype="float32")
  peft.save(tmp_path / "adapter", cfg, tree, rank=RANK, alpha=ALPHA,
            base=str(tmp_path / "base"))
  base = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / "base", dtype=torch.float32)
  theirs = theirs_lib.PeftModel.from_pretrained(base, tmp_path / "adapter")
  with torch.no_grad():
    got = theirs(torch.tensor(TOKENS)).logits.numpy()
  want, plain = logits(cfg, merged), logits(cfg, params)
  scale = np.abs(want).max()
  assert np.abs(got - want).max() <= RELATIVE * scale
  assert np.abs(plain - want).max() > 0.05 * scale  # teeth
  saved = io.read_json(tmp_path / "adapter/adapter_config.json")
  short = {"w_q": "q_proj", "w_k": "k_proj", "w_v": "v_proj", "w_o": "o_proj",
           "w_gate": "gate_proj", "w_up": "up_proj", "w_down": "down_proj"}
  assert saved["target_modules"] == sorted(short[name] for name in names)


@pytest.mark.parametrize("cfg, names", [
    (cases.DENSE, ALL), (cases.DENSE, ("w_o", "w_k")),
    (cases.V3, ("w_dq", "w_ukv", "w_o", "w_gate"))])
def test_what_was_written_is_read(cfg, names, tmp_path):
  """Experts, heads and layers are where they were."""
  tree, _ = adapter(cfg, names)
  if cfg is cases.V3:  # experts have an axis of their own
    del tree["mixture_blocks"]["ffn"]
  peft.save(tmp_path, cfg, tree, rank=RANK, alpha=ALPHA, base="x")
  found = peft.load(tmp_path, cfg)
  assert found.scale == ALPHA / RANK
  jax.tree.map(np.testing.assert_array_equal, found.params, tree)


@pytest.mark.parametrize("change, message", [
    ({"peft_type": "IA3"}, "is not of a LoRA adapter"), ({"r": 0}, "r=0 and"),
    ({"lora_alpha": 10**400}, "lora_alpha=1000.* at most 1e.09"),
    ({"init_lora_weights": "pissa"}, "'pissa' is not supported, because it"),
    ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens=.3. is not"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication=.* is not"),
    ({"use_dora": True}, "use_dora=True is not supported, only False"),
    ({"bias": "all"}, "bias='all' is not supported, only 'none'"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save=.'lm_head'. is not"),
    ({"r": 4}, "wanted .4, 24.; the adapter is another model's"),
    ({"lora_alpha": float("nan")}, "lora_alpha=nan should be positive")])
def test_adapters_of_another_kind(change, message, tmp_path):
  tree, _ = adapter(cases.DENSE, ("w_q",))
  peft.save(tmp_path, cases.DENSE, tree, rank=RANK, alpha=ALPHA)
  fields = io.read_json(tmp_path / peft.CONFIG)
  io.write_json(tmp_path / peft.CONFIG, fields | change)
  with pytest.raises(ValueError, match=message):
    peft.load(tmp_path, cases.DENSE)


@pytest.mark.parametrize("dtype,message", [
    (np.float16, ""), (ml_dtypes.bfloat16, ""),
    (np.int8, "has dtype I8, not one of F32, F16, BF16; save it again"),
    (ml_dtypes.float8_e4m3fn, "has dtype F8_E4M3")])
def test_what_adapters_are_stored_in(dtype, message, tmp_path):
  """Most are saved in the dtype of their base."""
  tree, _ = adapter(cases.DENSE, ("w_q",))
  peft.save(tmp_path, cases.DENSE, tree, rank=RANK, alpha=ALPHA)
  path = tmp_path / peft.WEIGHTS
  stored = {name: x.astype(dtype) for name, x in
            safetensors.numpy.load_file(path).items()}
  safetensors.numpy.save_file(stored, path)
  if message:
    with pytest.raises(ValueError, match=message):
      peft.load(tmp_path, cases.DENSE)
    return
  found = peft.load(tmp_path, cases.DENSE).params
  jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(
      lambda x: x.astype(dtype).astype(np.float32), tree))


def test_an_adapter_that_is_not_finite_or_a_pipe(tmp_path):
  tree, _ = adapter(cases.DENSE, ("w_q",))
  tree["dense_blocks"]["attn"]["w_q"]["w_a"][0, 0, 0] = np.nan
  peft.save(tmp_path, cases.DENSE, tree, rank=RANK, alpha=ALPHA)
  with pytest.raises(ValueError, match="q_proj.lora_A.weight has a value that"):
    peft.load(tmp_path, cases.DENSE)
  (tmp_path / peft.WEIGHTS).unlink()
  os.mkfifo(tmp_path / peft.WEIGHTS)
  with pytest.raises(ValueError, match="does not exist; give the whole folder"):
    peft.load(tmp_path, cases.DENSE)


def test_an_adapter_of_another_model_is_named(tmp_path):
  tree, _ = adapter(cases.DENSE, ("w_q",))
  peft.save(tmp_path, cases.DENSE, tree, rank=RANK, alpha=ALPHA)
  path = tmp_path / peft.WEIGHTS
  tensors = safetensors.numpy.load_file(path)
  name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
  for stored, message in (
      (tensors | {"x.lora_A.weight": tensors[name]}, "1 tensors that belong"),
      ({k: v for k, v in tensors.items() if "layers.0" in k}, "in 1 of 3"),
      ({k: v for k, v in tensors.items()
        if k != name.replace("lora_A", "lora_B")}, "is missing, wanted")):
    safetensors.numpy.save_file(stored, path)
    with pytest.raises(ValueError, match=message):
      peft.load(tmp_path, cases.DENSE)
  path.write_bytes(b"x")
  with pytest.raises(ValueError, match="is truncated or not a safetensors"):
    peft.load(tmp_path, cases.DENSE)
  path.unlink()
  with pytest.raises(ValueError, match="does not exist; give the whole folder"):
    peft.load(tmp_path, cases.DENSE)


def test_names_and_shapes_of_latent_attention(tmp_path):
  """Modules whose last part is not theirs alone are named in full."""
  cfg = cases.V3
  tree, _ = adapter(cfg, ("w_dq", "w_ukv", "w_o", "w_gate"))
  del tree["mixture_blocks"]["ffn"]
  peft.save(tmp_path, cfg, tree, rank=RANK, alpha=ALPHA)
  tensors = safetensors.numpy.load_file(tmp_path / peft.WEIGHTS)
  n, c, head = cfg.n_heads, cfg.kv_rank, cfg.nope_dim + cfg.v_dim
  modules = {}
  for i in range(cfg.n_layers):
    at = f"model.layers.{i}.self_attn."
    modules |= {f"{at}q_a_proj": (cfg.d_model, cfg.q_rank),
                f"{at}kv_b_proj": (c, n * head),
                f"{at}o_proj": (n * cfg.v_dim, cfg.d_model)}
  modules["model.layers.0.mlp.gate_proj"] = cfg.d_model, cfg.d_ff
  assert cfg.n_dense_layers == 1
  assert {k: v.shape for k, v in tensors.items()} == {
      f"base_model.model.{name}.lora_{which}.weight": shape
      for name, (inputs, outputs) in modules.items()
      for which, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK)))}
  config = json.loads((tmp_path / peft.CONFIG).read_text())
  assert config["target_modules"] == sorted(modules)
  assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)
