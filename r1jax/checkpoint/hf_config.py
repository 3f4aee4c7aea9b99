"""config.json of Hugging Face checkpoints <-> ModelConfig.

Families: deepseek_v3, deepseek_v2, qwen2, qwen3, llama, from the fields of the
published files and from those that transformers 5 writes. Every field is read,
known to be harmless, or an error: whether an unknown one changes the
mathematics cannot be known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from r1jax.core import config as config_lib
from r1jax.core.config import check
from r1jax.models.config import ModelConfig, RopeConfig
from r1jax.ops import rope as rope_ops

ARCHITECTURES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}
CLASSIFIER = "ForSequenceClassification"
_DEEPSEEK = ("deepseek_v3", "deepseek_v2")

# Bookkeeping, training-only settings, and how (not what) others compute.
HARMLESS = frozenset((
    "_name_or_path", "architectures", "attn_implementation", "auto_map",
    "aux_loss_alpha", "bos_token_id", "dtype", "eos_token_id", "ep_size",
    "gradient_checkpointing", "id2label", "label2id", "output_attentions",
    "output_hidden_states", "output_router_logits", "pad_token_id",
    "pretraining_tp", "problem_type", "return_dict", "router_aux_loss_coef",
    "seq_aux", "tokenizer_class", "torch_dtype", "torchscript",
    "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache"))
# Says nothing while use_sliding_window is false.
_HARMLESS_QWEN = frozenset(("max_window_layers", "sliding_window"))

_FP8 = {"quant_method": ("fp8",), "fmt": ("e4m3",),
        "weight_block_size": ([128, 128],),
        "activation_scheme": ("dynamic",), "scale_fmt": ("ue8m0", "float")}
# The tensors themselves tell which are quantised.
_FP8_HARMLESS = ("modules_to_not_convert", "ignored_layers")

_REQUIRED = object()


class _Fields:
  """Fields of one JSON object, taken by name; what is left is unknown."""

  def __init__(self, fields: dict[str, Any], where: str = ""):
    # A null switches nothing on.
    self._left = {k: v for k, v in fields.items() if v is not None}
    self._where = where

  def take(self, name: str, default: Any = _REQUIRED) -> Any:
    check(name in self._left or default is not _REQUIRED,
          f"config.json has no {self._where}{name}, which this model needs")
    return self._left.pop(name, default)

  def number(self, name: str, default: Any = _REQUIRED) -> Any:
    value = self.take(name, default)
    check(value is default or type(value) in (int, float),
          f"config.json: {self._where}{name}={value!r} should be a number")
    return value

  def expect(self, name: str, allowed: Collection[Any]) -> None:
    """Takes a field that has to be absent or one of `allowed`."""
    value = self.take(name, None)
    check(value is None or value in allowed,
          f"config.json: {self._where}{name}={value!r} is not supported, only"
          f" {' or '.join(repr(a) for a in allowed)}")

  def finish(self, harmless: Collection[str]) -> None:
    unknown = {k: v for k, v in self._left.items() if k not in harmless}
    listed = ", ".join(f"{self._where}{k}={v!r}" for k, v in unknown.items())
    check(not unknown, f"config.json: {listed}: unknown, and may change the"
          " mathematics; leave what changes nothing out of config.json")


def family_of(fields: dict[str, Any]) -> str:
  """The `model_type` of a config.json.

  Raises:
    ValueError: missing or not supported; the message lists the families.
  """
  family = fields.get("model_type")
  check(family in ARCHITECTURES, f"config.json: model_type={family!r} is not"
        f" supported, only {', '.join(ARCHITECTURES)}")
  return family


def family_for(cfg: ModelConfig) -> str:
  """The family whose files can hold `cfg`; `to_hf` checks that it does."""
  if cfg.attention == "mla":
    v2 = cfg.n_experts and cfg.score == "softmax"
    return "deepseek_v2" if v2 else "deepseek_v3"
  if cfg.qk_norm:
    return "qwen3"
  return "qwen2" if cfg.qkv_bias and not cfg.o_bias else "llama"


def from_hf(fields: dict[str, Any]) -> ModelConfig:
  """ModelConfig of a parsed config.json.

  Departure from transformers: `norm_topk_prob` of deepseek_v2, which it
  ignores, is obeyed, where `routed_scaling_factor` is 1 (else DeepSeek's code
  drops the factor, vLLM applies both, and it is an error).

  Departure from DeepSeek's inference code, as in transformers: a file that
  names YaRN gets it. Where `max_position_embeddings` does not exceed the
  original context, the longest context is factor * original.

  Args:
    fields: the whole config.json.

  Raises:
    ValueError: a field that is needed is missing, one has a value that is not
      supported, or one is unknown; the message names field and value.
  """
  family = family_of(fields)
  f = _Fields(fields)
  f.take("model_type")
  f.expect("hidden_act", ("silu",))
  f.expect("attention_dropout", (0,))
  f.expect("mlp_bias", (False,))
  f.expect("is_encoder_decoder", (False,))
  f.expect("partial_rotary_factor", (1,))
  _check_quantization(f.take("quantization_config", None))
  values = dict(
      vocab_size=f.number("vocab_size"), d_model=f.number("hidden_size"),
      n_layers=f.number("num_hidden_layers"),
      n_heads=f.number("num_attention_heads"),
      d_ff=f.number("intermediate_size"),
      max_position=f.number("max_position_embeddings"),
      norm_eps=f.number("rms_norm_eps", 1e-6),
      init_std=f.number("initializer_range", 0.02),
      tie_embeddings=f.take("tie_word_embeddings", False))
  if family in _DEEPSEEK:
    values |= _read_mla(f, values["n_heads"])
    values |= _read_experts(f, family, values["n_layers"])
  else:
    values |= _read_gqa(f, family, values)
  values |= _read_rope(f, values["max_position"], family in _DEEPSEEK)
  f.finish(HARMLESS | _HARMLESS_QWEN if "qwen" in family else HARMLESS)
  return config_lib.from_dict(ModelConfig, values)


def _check_quantization(quantization: dict[str, Any] | None) -> None:
  """DeepSeek's float8 weights in blocks; the loader restores them."""
  if quantization is None:
    return
  q = _Fields(quantization, "quantization_config.")
  for name in ("quant_method", "weight_block_size"):
    check(quantization.get(name) is not None,
          f"config.json: quantization_config={quantization!r} has no {name};"
          " supported is DeepSeek's fp8 in blocks of 128 x 128")
  for name, allowed in _FP8.items():
    q.expect(name, allowed)
  q.finish(_FP8_HARMLESS)


def _read_mla(f: _Fields, n_heads: int) -> dict[str, Any]:
  f.expect("num_key_value_heads", (n_heads,))
  f.expect("attention_bias", (False,))
  f.expect("rope_interleave", (True,))
  nope, turned = f.number("qk_nope_head_dim"), f.number("qk_rope_head_dim")
  f.expect("qk_head_dim", (nope + turned,))
  f.expect("head_dim", (turned,))
  return dict(
      attention="mla", q_rank=f.number("q_lora_rank", 0),
      kv_rank=f.number("kv_lora_rank"), nope_dim=nope, rope_dim=turned,
      v_dim=f.number("v_head_dim"))


def _read_experts(f: _Fields, family: str, n_layers: int) -> dict[str, Any]:
  v3 = family == "deepseek_v3"
  method = f.take("topk_method", "noaux_tc" if v3 else "greedy")
  methods = ("noaux_tc",) if v3 else ("greedy", "group_limited_greedy")
  check(method in methods, f"config.json: topk_method={method!r} is not"
        f" supported in {family}, only {' or '.join(methods)}")
  f.expect("moe_layer_freq", (1,))
  f.expect("scoring_func", ("sigmoid",) if v3 else ("softmax",))
  # Programs differ in what they take where a V3 file is silent.
  unless_v3 = lambda default: _REQUIRED if v3 else default
  groups = _REQUIRED if method != "greedy" else 1
  values = dict(
      n_dense_layers=f.number("first_k_dense_replace", unless_v3(0)),
      n_experts=f.number("n_routed_experts", unless_v3(0)),
      n_shared=f.number("n_shared_experts", 0),
      n_activated=f.number("num_experts_per_tok", unless_v3(0)),
      d_expert=f.number("moe_intermediate_size", unless_v3(0)),
      n_groups=f.number("n_group", groups),
      n_limited_groups=f.number("topk_group", groups),
      route_scale=f.number("routed_scaling_factor", unless_v3(1.0)),
      normalize_gates=f.take("norm_topk_prob", unless_v3(False)),
      score="sigmoid" if v3 else "softmax", selection_bias=v3)
  n_mtp = _read_mtp(f) if v3 else 0
  if values["n_dense_layers"] >= n_layers or not values["n_experts"]:
    return dict(n_mtp=n_mtp)  # nothing of the router is in use
  if method == "greedy" or values["n_groups"] == 1:
    values |= dict(n_groups=1, n_limited_groups=1)
  scale = values["route_scale"]
  check(v3 or not values["normalize_gates"] or scale == 1,
        f"config.json: norm_topk_prob=True with routed_scaling_factor={scale}"
        " is read differently by DeepSeek's code (no factor) and by others"
        " (both); choose one of them in config.json")
  return values | dict(n_mtp=n_mtp)


def _read_mtp(f: _Fields) -> int:
  """Under DeepSeek's name and that of transformers' attribute."""
  n_mtp = f.number("num_mtp_layers", f.number("num_nextn_predict_layers", 0))
  check(n_mtp in (0, 1), f"config.json: num_nextn_predict_layers={n_mtp} is not"
        " supported, only 0 or 1")
  return n_mtp


def _read_gqa(f: _Fields, family: str, shared: dict[str, Any]
              ) -> dict[str, Any]:
  f.expect("use_sliding_window", (False,))
  f.expect("use_mrope", (False,))
  kinds = f.take("layer_types", ())
  check(set(kinds) <= {"full_attention"}, f"config.json: layer_types={kinds!r}"
        " is not supported, only full_attention")
  if family == "qwen2":
    qkv_bias, o_bias = True, False
  else:
    qkv_bias = o_bias = f.take("attention_bias", False)
  n_heads = shared["n_heads"]
  # Qwen3's heads have this width in transformers where the file says nothing.
  head_dim = f.number("head_dim", 128 if family == "qwen3" else None)
  if head_dim is None:
    check(shared["d_model"] % n_heads == 0,
          f"config.json has no head_dim, and hidden_size={shared['d_model']} is"
          f" no multiple of num_attention_heads={n_heads}")
    head_dim = shared["d_model"] // n_heads
  return dict(
      attention="gqa", n_kv_heads=f.number("num_key_value_heads", n_heads),
      head_dim=head_dim, qkv_bias=qkv_bias, o_bias=o_bias,
      qk_norm=family == "qwen3")


def _read_rope(f: _Fields, max_position: int, mla: bool
               ) -> dict[str, Any]:
  """RopeConfig, from either spelling, and the longest context."""
  old, new = f.take("rope_scaling", {}), f.take("rope_parameters", {})
  check(not (old and new) or old == new,
        f"config.json: rope_scaling={old!r} and rope_parameters={new!r}"
        " disagree; keep one")
  r = _Fields(new or old, "rope_parameters." if new else "rope_scaling.")
  theta = r.number("rope_theta", f.number("rope_theta", 10000.0))
  kind = r.take("type", "default")
  kind = r.take("rope_type", kind)
  check(kind in ("default", "yarn", "llama3"),
        f"config.json: rope type {kind!r} is not supported, only default, yarn"
        " or llama3")
  r.expect("partial_rotary_factor", (1,))
  values = dict(theta=theta)
  if kind == "llama3":
    values |= dict(
        scaling="llama3", factor=r.number("factor"),
        original=r.number("original_max_position_embeddings"),
        low_factor=r.number("low_freq_factor"),
        high_factor=r.number("high_freq_factor"))
  elif kind == "yarn":
    values |= _read_yarn(r, max_position, mla)
    if max_position <= values["original"]:
      max_position = int(values["factor"] * values["original"])
  r.finish(())
  return dict(rope=values, max_position=max_position)


def _read_yarn(r: _Fields, max_position: int, mla: bool) -> dict[str, Any]:
  r.expect("truncate", (True,))
  mscale, all_dim = r.number("mscale", 0), r.number("mscale_all_dim", 0)
  factor = r.number("factor")
  given = r.number("attention_factor", None)
  # Elsewhere DeepSeek's code and transformers differ in what a missing field
  # stands for.
  check(not mla or given is not None or bool(mscale) == bool(all_dim)
        or (mscale == 1 and not all_dim),
        f"config.json: rope mscale={mscale} and mscale_all_dim={all_dim}: give"
        " both, or attention_factor, which multiplies cos and sin")
  values = dict(
      scaling="yarn", factor=factor,
      original=r.number("original_max_position_embeddings", max_position),
      beta_fast=r.number("beta_fast", 32.0),
      beta_slow=r.number("beta_slow", 1.0),
      attention_factor=_attention_factor(factor, mscale, all_dim)
      if given is None else given)
  # Only latent attention puts m^2 into the softmax scale.
  return values | (dict(mscale=all_dim) if mla else {})


def _attention_factor(factor: float, mscale: float, all_dim: float) -> float:
  """What multiplies cos and sin where the file does not say."""
  if mscale and all_dim:
    return (rope_ops.yarn_mscale(factor, mscale)
            / rope_ops.yarn_mscale(factor, all_dim))
  return rope_ops.yarn_mscale(factor, 1.0)


def to_hf(cfg: ModelConfig, family: str, *, bos_id: int | None,
          eos_ids: Collection[int], pad_id: int | None = None,
          dtype: str = "bfloat16", scalar: bool = False) -> dict[str, Any]:
  """config.json of `cfg` as transformers 4 and 5 and vLLM read it.

  Args:
    cfg: the model.
    family: one of `ARCHITECTURES`; `family_for` names the one to use.
    bos_id: the tokenizer's, or None.
    eos_ids: ids that end a text; one is written as a number.
    pad_id: the tokenizer's, or None.
    dtype: of the tensors beside it.
    scalar: whether it is a reward model, with one label.

  Raises:
    ValueError: files of the family cannot say what `cfg` is; the message shows
      what they would say.
  """
  check(family in ARCHITECTURES, f"family={family!r}: choose one of"
        f" {', '.join(ARCHITECTURES)}")
  check(family in _DEEPSEEK or not cfg.n_experts and cfg.attention == "gqa",
        f"a {family} file holds neither experts nor latent attention; choose"
        f" {family_for(cfg)}")
  eos = sorted(eos_ids)
  fields = {
      "architectures": [ARCHITECTURES[family]], "model_type": family,
      "vocab_size": cfg.vocab_size, "hidden_size": cfg.d_model,
      "num_hidden_layers": cfg.n_layers, "num_attention_heads": cfg.n_heads,
      "intermediate_size": cfg.d_ff,
      "max_position_embeddings": cfg.max_position,
      "rms_norm_eps": cfg.norm_eps, "initializer_range": cfg.init_std,
      "tie_word_embeddings": cfg.tie_embeddings, "hidden_act": "silu",
      "attention_dropout": 0.0, "use_cache": True, "torch_dtype": dtype,
      "bos_token_id": bos_id, "eos_token_id": eos[0] if len(eos) == 1 else eos
      or None, "pad_token_id": pad_id}
  rope = _canonical_rope(cfg)
  fields |= _write_rope(rope, cfg.attention == "mla")
  fields |= (_write_deepseek if family in _DEEPSEEK else _write_gqa)(
      cfg, family)
  wanted = dataclasses.replace(cfg, rope=rope)
  difference = config_lib.difference(
      config_lib.to_dict(wanted), config_lib.to_dict(from_hf(fields)))
  check(not difference, f"a {family} file cannot hold this model; it would be"
        f" read as {'; '.join(difference)}")
  if scalar:
    fields |= {"architectures": [ARCHITECTURES[family].replace(
        "ForCausalLM", CLASSIFIER)], "id2label": {"0": "score"},
               "label2id": {"score": 0}}
  return fields


def is_scalar(fields: dict[str, Any]) -> bool:
  """Whether a config.json is that of a reward model."""
  return any(str(name).endswith(CLASSIFIER)
             for name in fields.get("architectures") or ())


def _canonical_rope(cfg: ModelConfig) -> RopeConfig:
  """The same rotations without settings that do not act."""
  r = cfg.rope
  if cfg.stretched:
    yarn = RopeConfig(
        theta=r.theta, scaling="yarn", factor=r.factor, original=r.original,
        beta_fast=r.beta_fast, beta_slow=r.beta_slow,
        attention_factor=r.attention_factor)
    mla = cfg.attention == "mla"
    return dataclasses.replace(yarn, mscale=r.mscale) if mla else yarn
  if r.scaling == "llama3":
    return RopeConfig(
        theta=r.theta, scaling="llama3", factor=r.factor, original=r.original,
        low_factor=r.low_factor, high_factor=r.high_factor)
  return RopeConfig(theta=r.theta)


def _write_rope(r: RopeConfig, mla: bool) -> dict[str, Any]:
  if r.scaling == "none":
    return {"rope_theta": r.theta, "rope_scaling": None}
  # `type` for DeepSeek's own code, `rope_type` for the others.
  scaling = {"type": r.scaling, "rope_type": r.scaling, "factor": r.factor,
             "original_max_position_embeddings": r.original}
  if r.scaling == "llama3":
    scaling |= {"low_freq_factor": r.low_factor,
                "high_freq_factor": r.high_factor}
  else:
    scaling |= {"beta_fast": r.beta_fast, "beta_slow": r.beta_slow}
    mscale = r.mscale if mla else 0
    if mscale:
      scaling |= {"mscale": mscale, "mscale_all_dim": mscale}
    if r.attention_factor != _attention_factor(r.factor, mscale, mscale):
      scaling["attention_factor"] = r.attention_factor
  return {"rope_theta": r.theta, "rope_scaling": scaling}


def _write_deepseek(cfg: ModelConfig, family: str) -> dict[str, Any]:
  v3 = family == "deepseek_v3"
  fields = {
      "num_key_value_heads": cfg.n_heads, "q_lora_rank": cfg.q_rank or None,
      "kv_lora_rank": cfg.kv_rank, "qk_nope_head_dim": cfg.nope_dim,
      "qk_rope_head_dim": cfg.rope_dim, "v_head_dim": cfg.v_dim,
      "attention_bias": False, "moe_layer_freq": 1,
      "first_k_dense_replace": cfg.n_dense_layers if cfg.n_experts
      else cfg.n_layers, "n_routed_experts": cfg.n_experts,
      "n_shared_experts": cfg.n_shared,
      "num_experts_per_tok": cfg.n_activated,
      "moe_intermediate_size": cfg.d_expert, "n_group": cfg.n_groups,
      "topk_group": cfg.n_limited_groups,
      "routed_scaling_factor": cfg.route_scale,
      "norm_topk_prob": cfg.normalize_gates,
      "scoring_func": "sigmoid" if v3 else "softmax"}
  if v3:
    return fields | {"topk_method": "noaux_tc",
                     "num_nextn_predict_layers": cfg.n_mtp}
  return fields | {"topk_method": "group_limited_greedy" if cfg.n_groups > 1
                   else "greedy"}


def _write_gqa(cfg: ModelConfig, family: str) -> dict[str, Any]:
  fields = {"num_key_value_heads": cfg.n_kv_heads, "head_dim": cfg.head_dim}
  if family != "qwen2":
    fields["attention_bias"] = cfg.qkv_bias
  if family == "llama":
    return fields | {"mlp_bias": False}
  return fields | {"use_sliding_window": False}
