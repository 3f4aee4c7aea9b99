"""Checkpoints in Hugging Face's format, made without what they test.

Every tensor of DeepSeek-V3 and its kin is written by hand here: the names and
the [out, in] shapes are those of the published files, values are random.
"""

import json

import ml_dtypes
import numpy as np
import safetensors.numpy

BF16 = np.dtype(ml_dtypes.bfloat16)


def attention(cfg):
  """name -> shape of one block's attention."""
  d, n = cfg.d_model, cfg.n_heads
  if cfg.attention == "mla":
    head = cfg.nope_dim + cfg.rope_dim
    found = {
        "kv_a_proj_with_mqa.weight": (cfg.kv_rank + cfg.rope_dim, d),
        "kv_a_layernorm.weight": (cfg.kv_rank,),
        "kv_b_proj.weight": (n * (cfg.nope_dim + cfg.v_dim), cfg.kv_rank),
        "o_proj.weight": (d, n * cfg.v_dim)}
    if not cfg.q_rank:
      return found | {"q_proj.weight": (n * head, d)}
    return found | {"q_a_proj.weight": (cfg.q_rank, d),
                    "q_a_layernorm.weight": (cfg.q_rank,),
                    "q_b_proj.weight": (n * head, cfg.q_rank)}
  q, k = n * cfg.head_dim, cfg.n_kv_heads * cfg.head_dim
  found = {"q_proj.weight": (q, d), "k_proj.weight": (k, d),
           "v_proj.weight": (k, d), "o_proj.weight": (d, q)}
  if cfg.qkv_bias:
    found |= {"q_proj.bias": (q,), "k_proj.bias": (k,), "v_proj.bias": (k,)}
  if cfg.o_bias:
    found["o_proj.bias"] = (d,)
  if cfg.qk_norm:
    found |= {"q_norm.weight": (cfg.head_dim,),
              "k_norm.weight": (cfg.head_dim,)}
  return found


def feed_forward(prefix, d, f):
  return {f"{prefix}gate_proj.weight": (f, d),
          f"{prefix}up_proj.weight": (f, d),
          f"{prefix}down_proj.weight": (d, f)}


def block(cfg, mixture):
  """name -> shape of one block."""
  d, j = cfg.d_model, cfg.d_expert
  found = {"input_layernorm.weight": (d,),
           "post_attention_layernorm.weight": (d,)}
  found |= {f"self_attn.{k}": v for k, v in attention(cfg).items()}
  if not mixture:
    return found | feed_forward("mlp.", d, cfg.d_ff)
  found["mlp.gate.weight"] = (cfg.n_experts, d)
  if cfg.selection_bias:
    found["mlp.gate.e_score_correction_bias"] = (cfg.n_experts,)
  for e in range(cfg.n_experts):
    found |= feed_forward(f"mlp.experts.{e}.", d, j)
  return found | feed_forward("mlp.shared_experts.", d, cfg.n_shared * j)


def shapes(cfg):
  """name -> shape of a whole model; MTP's copies are among them."""
  v, d = cfg.vocab_size, cfg.d_model
  found = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
  if not cfg.tie_embeddings:
    found["lm_head.weight"] = (v, d)
  for i in range(cfg.n_layers):
    mixture = cfg.n_experts > 0 and i >= cfg.n_dense_layers
    found |= {f"model.layers.{i}.{k}": s for k, s in
              block(cfg, mixture).items()}
  if cfg.n_mtp:
    last = {"embed_tokens.weight": (v, d), "enorm.weight": (d,),
            "hnorm.weight": (d,), "eh_proj.weight": (d, 2 * d),
            "shared_head.norm.weight": (d,), "shared_head.head.weight": (v, d)}
    last |= block(cfg, cfg.n_experts > 0)
    found |= {f"model.layers.{cfg.n_layers}.{k}": s for k, s in last.items()}
  return found


def tensors(cfg, dtype=BF16, seed=0):
  """A random checkpoint; the selection bias is float32, as published."""
  rng = np.random.default_rng(seed)
  made = {}
  for name, shape in shapes(cfg).items():
    wide = name.endswith("e_score_correction_bias")
    made[name] = (0.1 * rng.standard_normal(shape)).astype(
        np.float32 if wide else dtype)
  if cfg.n_mtp:
    mtp = f"model.layers.{cfg.n_layers}."
    made[mtp + "embed_tokens.weight"] = made["model.embed_tokens.weight"]
    made[mtp + "shared_head.head.weight"] = made["lm_head.weight"]
  return made


def write(folder, made, files=1, fields=None):
  """Writes tensors as a folder of one or several files; returns it."""
  folder.mkdir(parents=True, exist_ok=True)
  names, metadata = list(made), {"format": "pt"}
  if files == 1:
    safetensors.numpy.save_file(made, folder / "model.safetensors", metadata)
  else:
    weight_map = {}
    for i in range(files):
      part = names[i::files]
      file = f"model-{i + 1:05}-of-{files:05}.safetensors"
      safetensors.numpy.save_file(
          {n: made[n] for n in part}, folder / file, metadata)
      weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}))
  (folder / "config.json").write_text(json.dumps(fields or {}))
  return folder


def read_file(path):
  """name -> (dtype, shape, bytes) of every tensor of a file."""
  return {name: (record["dtype"], tuple(record["shape"]),
                 bytes(record["data"]))
          for name, record in safetensors.deserialize(path.read_bytes())}


def read(folder):
  """The same of a folder."""
  found = {}
  for path in sorted(folder.glob("*.safetensors")):
    new = read_file(path)
    assert not set(found) & set(new)
    found |= new
  return found


def described(made):
  """The same of tensors in memory."""
  names = {BF16: "BF16", np.dtype(np.float32): "F32",
           np.dtype(np.float16): "F16",
           np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3"}
  return {n: (names[a.dtype], a.shape, a.tobytes()) for n, a in made.items()}
