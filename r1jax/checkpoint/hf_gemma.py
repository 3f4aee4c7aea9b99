"""Fields of config.json that are specific to Gemma 3, text only (gemma3_text).

Sliding windows are not implemented. They make no difference for sequences that
are no longer than `sliding_window`, so the context is limited to that, which is
reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r1jax.checkpoint.hf_fields import Fields
from r1jax.core.config import check
from r1jax.models.config import ModelConfig

FAMILY = "gemma3_text"
_PATTERN = 6  # every sixth layer is global
_FULL, _SLIDING = "full_attention", "sliding_attention"
_THETA = {_FULL: 1e6, _SLIDING: 1e4}


def read(f: Fields, shared: dict[str, Any],
         report: Callable[[str], None] | None = None) -> dict[str, Any]:
  """The fields of ModelConfig that this family names in its own way.

  Args:
    f: fields of the file.
    shared: values that were read in the same way for all families.
    report: called with a sentence if the context is limited to the window.

  Raises:
    ValueError: a value is not supported.
  """
  f.expect("hidden_activation", ("gelu_pytorch_tanh",))
  f.expect("use_bidirectional_attention", (False,))
  f.expect("attention_bias", (False,))
  f.take("cache_implementation", None)  # how transformers stores its KV cache
  for name in ("attn_logit_softcapping", "final_logit_softcapping"):
    f.expect(name, (None,))
  window = f.size("sliding_window", 4096, most=1 << 62)
  context = min(shared["max_position"], window)
  if context < shared["max_position"] and report:
    report(f"config.json: sliding_window={window}: sliding windows are not"
           f" implemented, so the longest context is {context} tokens instead"
           f" of {shared['max_position']}; up to that length windows make no"
           " difference")
  return dict(
      attention="gqa", n_kv_heads=f.size("num_key_value_heads", 4),
      head_dim=f.size("head_dim", 256), qk_norm=True, post_norms=True,
      norm_offset=1.0, activation="gelu", max_position=context,
      embed_scale=shared["d_model"] ** 0.5,
      query_scale=f.number("query_pre_attn_scalar", 256, least=1e-6,
                           most=1e6) ** -0.5,
      global_every=_pattern(f, shared["n_layers"]), **_rotations(f))


def _pattern(f: Fields, n_layers: int) -> int:
  """n, where every n-th layer is global."""
  old = f.size("_sliding_window_pattern", _PATTERN, most=1 << 20)
  every = f.size("sliding_window_pattern", old, most=1 << 20)
  kinds = f.take("layer_types", None)
  if kinds is None:
    return every
  check(isinstance(kinds, list) and len(kinds) == n_layers
        and all(kind in (_FULL, _SLIDING) for kind in kinds), "config.json:"
        f" layer_types={kinds!r:.200}: give {_SLIDING} or {_FULL} for each of"
        f" {n_layers} layers")
  # Without a global layer, any n beyond the last layer.
  every = kinds.index(_FULL) + 1 if _FULL in kinds else max(every, n_layers + 1)
  check(kinds == [_SLIDING if i % every else _FULL
                  for i in range(1, n_layers + 1)],
        f"config.json: layer_types={kinds!r:.200} is not supported, only one"
        " with every n-th layer global")
  return every


def _rotations(f: Fields) -> dict[str, Any]:
  """RoPE bases of global and local layers, from the old or new field names."""
  bounds = dict(least=1.0 + 1e-6, most=1e15)
  found = {_FULL: f.number("rope_theta", None, **bounds),
           _SLIDING: f.number("rope_local_base_freq", None, **bounds)}
  scaling = f.take("rope_scaling", None)
  check(not scaling, f"config.json: rope_scaling={scaling!r} is not supported"
        f" in {FAMILY}, only null")
  both = Fields(f.take("rope_parameters", {}), "rope_parameters.")
  for kind, base in found.items():
    one = Fields(both.take(kind, {}), f"rope_parameters.{kind}.")
    one.expect("rope_type", ("default",))
    one.expect("partial_rotary_factor", (1,))
    theta = one.number("rope_theta", base or _THETA[kind], **bounds)
    check(base in (None, theta), f"config.json: the RoPE base of {kind} is"
          f" {base} and, in rope_parameters, {theta}; keep one")
    one.finish(())
    found[kind] = theta
  both.finish(())
  return dict(rope=dict(theta=found[_FULL]), local_theta=found[_SLIDING])


def write(cfg: ModelConfig) -> dict[str, Any]:
  """The fields that `read` reads, for `cfg`."""
  local = cfg.local_layers()
  return {
      "num_key_value_heads": cfg.n_kv_heads, "head_dim": cfg.head_dim,
      "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False,
      "query_pre_attn_scalar": _whole((cfg.query_scale or 1.0) ** -2),
      "sliding_window": cfg.max_position, "layer_types": [
          _SLIDING if x else _FULL for x in ([] if local is None else local)],
      "sliding_window_pattern": cfg.global_every,
      "attn_logit_softcapping": None, "final_logit_softcapping": None,
      "rope_theta": cfg.rope.theta, "rope_local_base_freq": cfg.local_theta,
      "rope_scaling": None}


def _whole(number: float) -> float | int:
  """`number` as an int if it is one up to rounding errors."""
  return round(number) if abs(number - round(number)) < 1e-6 else number
