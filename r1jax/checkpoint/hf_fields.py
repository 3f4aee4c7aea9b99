"""Reads fields of a config.json and finds those that nobody reads."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from r1jax.core.config import check

# Fields that do not change what the model computes: bookkeeping, training-only
# settings, implementation options, and defaults of samplers.
HARMLESS = frozenset((
    "_attn_implementation_autoset", "_name_or_path", "architectures",
    "attn_implementation", "auto_map", "aux_loss_alpha", "bos_token_id",
    "classifier_dropout", "dtype", "eos_token_id", "ep_size",
    "gradient_checkpointing", "id2label", "label2id", "output_attentions",
    "output_hidden_states", "output_router_logits", "pad_token_id",
    "pretraining_tp", "problem_type", "return_dict", "router_aux_loss_coef",
    "seq_aux", "tokenizer_class", "torch_dtype", "torchscript",
    "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
    "bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward",
    "decoder_start_token_id", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "is_llama_config",
    "length_penalty", "max_length", "max_seq_len", "max_sequence_length",
    "min_length", "model_max_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_labels", "num_return_sequences",
    "output_scores",
    "prefix", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "top_k", "top_p",
    "transformers.js_config", "typical_p", "unk_token_id", "use_bfloat16"))
# Unknown fields that are ignored, and reported, because their names show the
# same: private notes, token ids, versions, loss weights, settings of other
# programs.
_PASSED = re.compile(
    r"_.*|.*_token_ids?|.*_tokens?_index|.*version|.*_loss_\w+|.*\.js_config"
    r"|(unsloth|tokenizer|gradient|summary|wandb|peft|tie_encoder)_.*")
# Unknown fields that have no effect if they are 0, false or empty.
_OFF = re.compile(r".*dropout(_\w+)?|\w+_pdrop|pruned_heads")
_SHOWN = 10  # most unknown fields in a message
REQUIRED = object()


class Fields:
  """Fields of one JSON object; reading one removes it, the rest is unknown."""

  def __init__(self, fields: Any, where: str = ""):
    """Starts with all fields that are not null.

    Args:
      fields: the parsed JSON object.
      where: prefix of its names in messages, such as "rope_scaling.".

    Raises:
      ValueError: it is not an object.
    """
    check(isinstance(fields, dict),
          f"config.json: {where.rstrip('.') or 'the file'} is {fields!r:.60},"
          " not an object of fields; take the file that belongs to the weights")
    # null means the same as a missing field.
    self._left = {k: v for k, v in fields.items() if v is not None}
    self._where = where

  def take(self, name: str, default: Any = REQUIRED) -> Any:
    """A field of any type.

    Args:
      name: of the field.
      default: for a missing field; without it the field is required.

    Raises:
      ValueError: a required field is missing.
    """
    check(name in self._left or default is not REQUIRED,
          f"config.json has no {self._where}{name}, which this model needs")
    return self._left.pop(name, default)

  def number(self, name: str, default: Any = REQUIRED, *,
             least: float = -math.inf, most: float = math.inf) -> Any:
    """A finite number within bounds; other types raise ValueError."""
    value = self.take(name, default)
    if value is default:
      return value
    check(type(value) in (int, float),
          f"config.json: {self._where}{name}={value!r:.80} should be a number")
    bounds = (f"config.json: {self._where}{name}={value!r:.80} should be a"
              f" finite number from {least:g} to {most:g}")
    check(least <= value <= most and abs(value) < math.inf, bounds)
    return value

  def size(self, name: str, default: Any = REQUIRED, *, least: int = 1,
           most: int = 1 << 20) -> Any:
    """A whole number within bounds, since arrays are allocated by it."""
    value = self.take(name, default)
    if value is default:
      return value
    whole = type(value) is int or type(value) is float and value.is_integer()
    check(whole and least <= value <= most,
          f"config.json: {self._where}{name}={value!r:.80} should be a whole"
          f" number from {least} to {most}")
    return int(value)

  def either(self, name: str, other: str, default: Any = REQUIRED,
             **bounds: int) -> int:
    """A `size` that programs write under one of two names, or under both."""
    second = self.size(other, None, **bounds)
    first = self.size(name, default if second is None else second, **bounds)
    check(second in (None, first), f"config.json: {self._where}{name}={first}"
          f" and {other}={second} disagree; keep one")
    return first

  def flag(self, name: str, default: Any = REQUIRED) -> Any:
    """A boolean."""
    value = self.take(name, default)
    check(value is default or isinstance(value, bool),
          f"config.json: {self._where}{name}={value!r:.80} should be true or"
          " false")
    return value

  def expect(self, name: str, allowed: Collection[Any]) -> None:
    """Reads a field that must be absent or one of `allowed`."""
    value = self.take(name, None)
    check(value is None or value in allowed,
          f"config.json: {self._where}{name}={value!r:.80} is not supported,"
          f" only {' or '.join(repr(a) for a in allowed)}")

  def finish(self, harmless: Collection[str]) -> list[str]:
    """Raises ValueError for unknown fields that may change the computation.

    Args:
      harmless: names of fields to ignore.

    Returns:
      Names of further unknown fields that are ignored because of their names.
    """
    unknown = {k: v for k, v in self._left.items() if k not in harmless
               and (v or not _OFF.fullmatch(k))}
    passed = [k for k in unknown if _PASSED.fullmatch(k)]
    refused = [f"{self._where}{k}={v!r:.80}" for k, v in unknown.items()
               if k not in passed]
    more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    check(not refused, f"config.json: {', '.join(refused[:_SHOWN])}{more}:"
          " unknown, and may change what the model computes; remove it from"
          " config.json if it does not")
    return [f"{self._where}{k}" for k in passed]
