"""tfds data set of multiple choice in science, technology and engineering."""

from __future__ import annotations

import functools

from r1jax.data.sources.builders import domain, readers_choice, readers_general


class Stem(domain.Domain):
  """Multiple choice, mostly in science."""

  BUILDER_CONFIGS = [
      domain.Source(
          name="mmlu", reader=readers_choice.mmlu,
          files={"test": ("test/*_test.csv",), "dev": ("dev/*_dev.csv",),
                 "val": ("val/*_val.csv",)}),
      domain.Source(
          name="mmlu_stem", reader=readers_choice.mmlu_stem,
          files={"test": ("test.jsonl",)}),
      domain.Source(
          name="mmlu_redux", reader=readers_choice.mmlu_redux,
          files={"test": ("mmlu_*.csv",)}),
      domain.Source(
          name="gpqa", reader=readers_choice.gpqa,
          files={split: (f"gpqa_{split}.csv",)
                 for split in ("diamond", "main", "extended")}),
      domain.Source(
          name="mmlu_pro", reader=readers_choice.mmlu_pro,
          files={split: (f"{split}*.parquet", f"{split}*.jsonl")
                 for split in ("test", "validation")}),
      domain.Source(
          name="ceval", reader=readers_choice.ceval,
          files={"val": ("val/*_val.csv",), "dev": ("dev/*_dev.csv",)}),
      domain.Source(
          name="safetybench", reader=readers_choice.safetybench,
          files={"test": ("test_zh*.json",)}, beside="test_answers_zh*.json"),
      domain.Source(
          name="units", module="r1jax.data.sources.generated.units",
          beside="draws.py"),
      domain.Source(
          name="prompts",
          reader=functools.partial(readers_general.prompts, domain="stem")),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = domain.instructions(BUILDER_CONFIGS)
