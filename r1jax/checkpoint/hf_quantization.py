"""Checks quantization_config of config.json: only DeepSeek's FP8 in blocks."""

from __future__ import annotations

from typing import Any

from r1jax.checkpoint.hf_fields import Fields
from r1jax.core.config import check

_FP8 = {"quant_method": ("fp8",), "fmt": ("e4m3",),
        "weight_block_size": ([128, 128],),
        "activation_scheme": ("dynamic",), "scale_fmt": ("ue8m0", "float")}
# Not needed: the dtype of each tensor tells whether it is quantised.
_FP8_HARMLESS = ("modules_to_not_convert", "ignored_layers")


def check_supported(quantization: dict[str, Any] | None) -> None:
  """Raises ValueError unless it is DeepSeek's, which `hf_files` dequantises.

  Args:
    quantization: the field quantization_config; None for a model without it.
  """
  if quantization is None:
    return
  q = Fields(quantization, "quantization_config.")
  method = quantization.get("quant_method")
  check(method is None or method in _FP8["quant_method"], "config.json:"
        f" quantization_config.quant_method={method!r:.80} is not supported,"
        " only DeepSeek's fp8; take the model that is not quantised")
  for name in ("quant_method", "weight_block_size"):
    check(quantization.get(name) is not None,
          f"config.json: quantization_config={quantization!r:.80} has no"
          f" {name}; supported is DeepSeek's fp8 in blocks of 128 x 128")
  for name, allowed in _FP8.items():
    q.expect(name, allowed)
  q.finish(_FP8_HARMLESS)
