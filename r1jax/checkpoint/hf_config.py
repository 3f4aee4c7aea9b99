"""config.json of Hugging Face checkpoints <-> ModelConfig.

Families: see `ARCHITECTURES`, as published and as transformers 5 writes them.
Every field is either read; or known not to change what the model computes; or
ignored because of its name, and reported; or an error, because an unknown field
might change what the model computes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

from r1jax.checkpoint import hf_gemma, hf_quantization
from r1jax.checkpoint.hf_fields import HARMLESS, REQUIRED, Fields
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
    "mistral": "MistralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
    hf_gemma.FAMILY: "Gemma3ForCausalLM",
}
CLASSIFIER = "ForSequenceClassification"
_V3 = ("deepseek_v3", "kimi_k2")
_DEEPSEEK = (*_V3, "deepseek_v2")
_MISSING = {  # what support of other families would need
    "glm4_moe": "partial RoPE, and a selection bias with grouped-query"
    " attention",
    "qwen3_next": "linear attention (gated DeltaNet with a short convolution),"
    " gated attention, partial RoPE",
    "gpt_oss": "attention sinks, sliding windows in every other layer, experts"
    " with biases and a clamped activation, MXFP4 weights",
    "deepseek_v32": "sparse attention with an indexer (index_topk)",
    "gemma3": "image inputs; the text model alone is gemma3_text",
    "mixtral": "its names of the experts' weights",
    "qwen2_moe": "a gated shared expert",
}
# Bounds of a plausible config; modules are the experts of all layers.
_MOST_LAYERS, _MOST_EXPERTS, _MOST_MODULES = 1 << 12, 1 << 16, 1 << 20
_MOST_POSITIONS = 1 << 30

# Not used while use_sliding_window is false.
_HARMLESS_QWEN = frozenset(("max_window_layers", "sliding_window"))


def family_of(fields: dict[str, Any]) -> str:
  """The `model_type` of a config.json.

  Raises:
    ValueError: missing or not supported; the message lists the families.
  """
  family = Fields(fields).take("model_type", None)
  known = isinstance(family, str) and family in ARCHITECTURES
  lacking = _MISSING.get(family) if isinstance(family, str) else None
  if not lacking and isinstance(fields.get("text_config"), dict):
    lacking = "its other inputs; save its language model (text_config) alone"
  check(known, f"config.json: model_type={family!r:.80} is not supported, only"
        f" {', '.join(ARCHITECTURES)}"
        + (f"; it would need {lacking}" if lacking else ""))
  return family


def family_for(cfg: ModelConfig) -> str:
  """The family to export `cfg` as; `to_hf` checks that it fits."""
  if cfg.attention == "mla":
    v2 = cfg.n_experts and cfg.score == "softmax"
    return "deepseek_v2" if v2 else "deepseek_v3"
  if cfg.n_experts:
    return "qwen3_moe"
  if cfg.post_norms:
    return hf_gemma.FAMILY
  if cfg.qk_norm:
    return "qwen3"
  return "qwen2" if cfg.qkv_bias and not cfg.o_bias else "llama"


def from_hf(fields: dict[str, Any],
            report: Callable[[str], None] | None = None) -> ModelConfig:
  """ModelConfig of a parsed config.json.

  Departure from transformers: it ignores `norm_topk_prob` of deepseek_v2, which
  is used here if `routed_scaling_factor` is 1. With another factor it is an
  error, because DeepSeek's code drops the factor and vLLM applies both.

  Departure from DeepSeek's inference code, as in transformers: YaRN is used
  whenever the file names it. If `max_position_embeddings` does not exceed the
  original context, the longest context is factor * original.

  Args:
    fields: the whole config.json.
    report: called with a sentence about unknown fields that were ignored.

  Raises:
    ValueError: a required field is missing, a value is not supported or
      implausible, or a field is unknown; the message names field and value.
  """
  family = family_of(fields)
  f = Fields(fields)
  f.take("model_type")
  gemma = family == hf_gemma.FAMILY
  f.expect("hidden_act", ("gelu_pytorch_tanh" if gemma else "silu",))
  for name in ("attention_dropout", "mlp_bias", "is_encoder_decoder",
               "is_decoder", "add_cross_attention"):
    f.expect(name, (0,))
  f.expect("partial_rotary_factor", (1,))
  hf_quantization.check_supported(f.take("quantization_config", None))
  values = dict(
      vocab_size=f.size("vocab_size", most=1 << 24),
      d_model=f.size("hidden_size"),
      n_layers=f.size("num_hidden_layers", most=_MOST_LAYERS),
      n_heads=f.size("num_attention_heads", most=1 << 16),
      d_ff=f.size("intermediate_size", most=1 << 24),
      max_position=f.size("max_position_embeddings", most=_MOST_POSITIONS),
      norm_eps=f.number("rms_norm_eps", 1e-6, least=0, most=1),
      init_std=f.number("initializer_range", 0.02, least=0, most=100),
      tie_embeddings=f.flag("tie_word_embeddings", gemma))
  if family in _DEEPSEEK:
    values |= _read_mla(f, values["n_heads"])
    values |= _read_experts(f, family, values["n_layers"])
  elif gemma:
    values |= hf_gemma.read(f, values, report)
  else:
    values |= _read_gqa(f, family, values)
  if family == "qwen3_moe":
    values |= _read_qwen_experts(f, values["n_layers"])
  values |= {} if gemma else _read_rope(
      f, values["max_position"], family in _DEEPSEEK)
  modules = values["n_layers"] * values.get("n_experts", 0)
  check(modules <= _MOST_MODULES, f"config.json: {values['n_layers']} layers of"
        f" {values.get('n_experts')} experts are {modules}, more than any model"
        f" has; the limit is {_MOST_MODULES}")
  passed = f.finish(
      HARMLESS | _HARMLESS_QWEN if "qwen" in family else HARMLESS)
  if passed and report:
    report(f"config.json: {', '.join(passed)}: unknown, ignored because by the"
           " name they do not change what the model computes")
  try:
    return config_lib.from_dict(ModelConfig, values)
  except ValueError as error:  # sizes that do not fit each other
    raise ValueError(f"config.json: {error}; take the file that belongs to the"
                     " weights") from error


def _read_mla(f: Fields, n_heads: int) -> dict[str, Any]:
  f.expect("num_key_value_heads", (n_heads,))
  f.expect("attention_bias", (False,))
  f.expect("rope_interleave", (True,))
  nope, turned = f.size("qk_nope_head_dim"), f.size("qk_rope_head_dim")
  f.expect("qk_head_dim", (nope + turned,))
  f.expect("head_dim", (turned,))
  return dict(
      attention="mla", q_rank=f.size("q_lora_rank", 0, least=0),
      kv_rank=f.size("kv_lora_rank"), nope_dim=nope, rope_dim=turned,
      v_dim=f.size("v_head_dim"))


def _read_experts(f: Fields, family: str, n_layers: int) -> dict[str, Any]:
  v3 = family in _V3
  method = f.take("topk_method", "noaux_tc" if v3 else "greedy")
  methods = ("noaux_tc",) if v3 else ("greedy", "group_limited_greedy")
  check(method in methods, f"config.json: topk_method={method!r} is not"
        f" supported in {family}, only {' or '.join(methods)}")
  f.expect("moe_layer_freq", (1,))
  f.expect("scoring_func", ("sigmoid",) if v3 else ("softmax",))
  # Programs differ in the defaults for fields that a V3 file lacks.
  unless_v3 = lambda default: REQUIRED if v3 else default
  groups = REQUIRED if method != "greedy" else 1
  values = dict(
      n_dense_layers=f.size("first_k_dense_replace", unless_v3(0), least=0),
      n_experts=f.size("n_routed_experts", unless_v3(0), least=0,
                       most=_MOST_EXPERTS),
      n_shared=f.size("n_shared_experts", 0, least=0, most=_MOST_EXPERTS),
      n_activated=f.size("num_experts_per_tok", unless_v3(0), least=0),
      d_expert=f.size("moe_intermediate_size", unless_v3(0), least=0),
      n_groups=f.size("n_group", groups),
      n_limited_groups=f.size("topk_group", groups),
      route_scale=f.number("routed_scaling_factor", unless_v3(1.0),
                           least=-1e6, most=1e6),
      normalize_gates=f.flag("norm_topk_prob", unless_v3(False)),
      score="sigmoid" if v3 else "softmax", selection_bias=v3)
  n_mtp = _read_mtp(f) if v3 else 0
  if values["n_dense_layers"] >= n_layers or not values["n_experts"]:
    return dict(n_mtp=n_mtp)  # a dense model: no router
  if method == "greedy" or values["n_groups"] == 1:
    values |= dict(n_groups=1, n_limited_groups=1)
  scale = values["route_scale"]
  check(v3 or not values["normalize_gates"] or scale == 1,
        f"config.json: norm_topk_prob=True with routed_scaling_factor={scale}"
        " is read differently by DeepSeek's code (no factor) and by others"
        " (both); choose one of them in config.json")
  return values | dict(n_mtp=n_mtp)


def _read_qwen_experts(f: Fields, n_layers: int) -> dict[str, Any]:
  """Settings of Qwen3's experts; the layers in `mlp_only_layers` are dense."""
  f.expect("decoder_sparse_step", (1,))
  dense = f.take("mlp_only_layers", [])
  first = list(range(len(dense))) if isinstance(dense, list) else None
  check(dense == first and len(dense) < n_layers,
        f"config.json: mlp_only_layers={dense!r:.80} is not supported, only the"
        " first layers, such as [0, 1], and not all layers")
  return dict(
      n_dense_layers=len(dense), n_experts=f.either(
          "num_experts", "num_local_experts", most=_MOST_EXPERTS),
      n_activated=f.size("num_experts_per_tok"),
      d_expert=f.size("moe_intermediate_size"), score="softmax",
      selection_bias=False, normalize_gates=f.flag("norm_topk_prob", False))


def _read_mtp(f: Fields) -> int:
  """Number of MTP modules, under DeepSeek's name or transformers' attribute."""
  n_mtp = f.either("num_nextn_predict_layers", "num_mtp_layers", 0, least=0)
  check(n_mtp in (0, 1), f"config.json: num_nextn_predict_layers={n_mtp} is not"
        " supported, only 0 or 1")
  return n_mtp


def _read_gqa(f: Fields, family: str, shared: dict[str, Any]
              ) -> dict[str, Any]:
  f.expect("use_sliding_window", (False,))
  f.expect("use_mrope", (False,))
  f.expect("rope_interleaved", (False,))
  kinds = f.take("layer_types", [])
  check(isinstance(kinds, list)
        and all(kind == "full_attention" for kind in kinds),
        f"config.json: layer_types={kinds!r:.200} is not supported, only"
        " full_attention")
  if family == "mistral":
    window = f.size("sliding_window", None, most=1 << 62)
    check(window is None or window >= shared["max_position"],
          f"config.json: sliding_window={window} is not supported, only null or"
          " at least max_position_embeddings="
          f"{shared['max_position']}")
  if family in ("qwen2", "mistral"):
    qkv_bias, o_bias = family == "qwen2", False
  else:
    qkv_bias = o_bias = f.flag("attention_bias", False)
  n_heads = shared["n_heads"]
  # transformers' default for Qwen3 is 128.
  head_dim = f.size("head_dim", 128 if family == "qwen3" else None)
  if head_dim is None:
    check(shared["d_model"] % n_heads == 0,
          f"config.json has no head_dim, and hidden_size={shared['d_model']} is"
          f" no multiple of num_attention_heads={n_heads}")
    head_dim = shared["d_model"] // n_heads
  return dict(
      attention="gqa", n_kv_heads=f.size("num_key_value_heads", n_heads),
      head_dim=head_dim, qkv_bias=qkv_bias, o_bias=o_bias,
      qk_norm=family in ("qwen3", "qwen3_moe"))


def _read_rope(f: Fields, max_position: int, mla: bool
               ) -> dict[str, Any]:
  """RopeConfig and longest context, from the old or the new field names."""
  old, new = f.take("rope_scaling", {}), f.take("rope_parameters", {})
  check(not (old and new) or old == new,
        f"config.json: rope_scaling={old!r} and rope_parameters={new!r}"
        " disagree; keep one")
  r = Fields(new or old, "rope_parameters." if new else "rope_scaling.")
  bounds = dict(least=1.0 + 1e-6, most=1e15)
  outer = f.number("rope_theta", None, **bounds)
  theta = r.number("rope_theta", 10000.0 if outer is None else outer, **bounds)
  check(outer in (None, theta), f"config.json: rope_theta is {outer} and, among"
        f" the RoPE parameters, {theta}; keep one")
  early = r.take("type", None)
  kind = r.take("rope_type", "default" if early is None else early)
  check(early in (None, kind), f"config.json: the RoPE type={early!r} and"
        f" rope_type={kind!r} disagree; keep one")
  check(kind in ("default", "yarn", "llama3"),
        f"config.json: rope type {kind!r} is not supported, only default, yarn"
        " or llama3")
  r.expect("partial_rotary_factor", (1,))
  values = dict(theta=theta)
  if kind == "llama3":
    values |= dict(
        scaling="llama3", factor=r.number("factor", least=1, most=1e6),
        original=r.size("original_max_position_embeddings", most=1 << 30),
        low_factor=r.number("low_freq_factor", least=1e-6, most=1e6),
        high_factor=r.number("high_freq_factor", least=1e-6, most=1e6))
    check(values["low_factor"] < values["high_factor"],
          f"config.json: low_freq_factor={values['low_factor']} should be below"
          f" high_freq_factor={values['high_factor']}")
  elif kind == "yarn":
    values |= _read_yarn(r, max_position, mla)
    if max_position <= values["original"]:
      max_position = int(values["factor"] * values["original"])
      check(max_position <= _MOST_POSITIONS, "config.json: rope_scaling.factor"
            f"={values['factor']} of {values['original']} positions makes"
            f" {max_position}; the limit is {_MOST_POSITIONS}")
  r.finish(())
  return dict(rope=values, max_position=max_position)


def _read_yarn(r: Fields, max_position: int, mla: bool) -> dict[str, Any]:
  """YaRN's settings.

  `attn_factor` multiplies the implied factor on cos and sin, as in vLLM, which
  DeepSeek recommends for its distilled models: R1-0528's 0.878 makes that
  factor 1. transformers ignores the field.
  """
  r.expect("truncate", (True,))
  of_scale = dict(least=0, most=1e6)
  mscale = r.number("mscale", 0, **of_scale)
  all_dim = r.number("mscale_all_dim", 0, **of_scale)
  factor = r.number("factor", least=1, most=1e6)
  given = r.number("attention_factor", None, least=1e-6, most=1e6)
  times = r.number("attn_factor", None, least=1e-6, most=1e6)
  # In other cases DeepSeek's code and transformers have different defaults for
  # the missing field.
  check(not mla or given is not None or bool(mscale) == bool(all_dim)
        or (mscale == 1 and not all_dim),
        f"config.json: rope mscale={mscale} and mscale_all_dim={all_dim}: give"
        " both, or attention_factor, which multiplies cos and sin")
  implied = _attention_factor(factor, mscale, all_dim) * (times or 1.0)
  check(given is None or times is None
        or math.isclose(given, implied, rel_tol=1e-6),
        f"config.json: attention_factor={given} and attn_factor={times}, which"
        f" makes it {implied:.6g}, disagree; keep one")
  turns = dict(least=1e-6, most=1e6)
  values = dict(
      scaling="yarn", factor=factor,
      original=r.size("original_max_position_embeddings", max_position,
                      most=1 << 30),
      beta_fast=r.number("beta_fast", 32.0, **turns),
      beta_slow=r.number("beta_slow", 1.0, **turns),
      attention_factor=implied if given is None else given)
  # Only latent attention multiplies the softmax scale by m^2.
  return values | (dict(mscale=all_dim) if mla else {})


def _attention_factor(factor: float, mscale: float, all_dim: float) -> float:
  """The factor on cos and sin that a file without one implies."""
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
    eos_ids: ids that end a text; a single one is written as a number.
    pad_id: the tokenizer's, or None.
    dtype: of the stored tensors.
    scalar: whether it is a reward model, with one label.

  Raises:
    ValueError: a config.json of the family cannot describe `cfg`; the message
      shows the differences.
  """
  check(family in ARCHITECTURES, f"family={family!r}: choose one of"
        f" {', '.join(ARCHITECTURES)}")
  mla = family in _DEEPSEEK
  check(mla == (cfg.attention == "mla")
        and (mla or bool(cfg.n_experts) == (family == "qwen3_moe")),
        f"a {family} file cannot hold attention={cfg.attention!r} with"
        f" n_experts={cfg.n_experts}; choose {family_for(cfg)}")
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
  if family == hf_gemma.FAMILY:
    del fields["hidden_act"]
    fields |= hf_gemma.write(cfg)
  else:
    fields |= _write_rope(rope, mla)
    fields |= (_write_deepseek if mla else _write_gqa)(cfg, family)
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
  names = Fields(fields).take("architectures", [])
  check(isinstance(names, list), f"config.json: architectures={names!r:.80}"
        " should be a list of names")
  return any(str(name).endswith(CLASSIFIER) for name in names)


def _canonical_rope(cfg: ModelConfig) -> RopeConfig:
  """An equal RopeConfig with unused settings at their defaults."""
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
  # `type` for DeepSeek's own code, `rope_type` for other programs.
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
    implied = _attention_factor(r.factor, mscale, mscale)
    if r.attention_factor != implied:  # for transformers, and for vLLM
      scaling |= {"attention_factor": r.attention_factor,
                  "attn_factor": r.attention_factor / implied}
  return {"rope_theta": r.theta, "rope_scaling": scaling}


def _write_deepseek(cfg: ModelConfig, family: str) -> dict[str, Any]:
  v3 = family in _V3
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
  if family == "mistral":
    return fields | {"sliding_window": None}
  if family != "qwen2":
    fields["attention_bias"] = cfg.qkv_bias
  if family == "llama":
    return fields | {"mlp_bias": False}
  if cfg.n_experts:
    fields |= {
        "decoder_sparse_step": 1, "num_experts": cfg.n_experts,
        "mlp_only_layers": list(range(cfg.n_dense_layers)),
        "num_experts_per_tok": cfg.n_activated,
        "moe_intermediate_size": cfg.d_expert,
        "norm_topk_prob": cfg.normalize_gates}
  return fields | {"use_sliding_window": False}
