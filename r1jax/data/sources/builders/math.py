"""tfds data set of mathematics."""

from __future__ import annotations

import functools

from r1jax.data.sources.builders import domain, readers_general, readers_math

_GSM8K_IDS = {"train": 0, "validation": 0, "test": 1_000_000}


class Math(domain.Domain):
  """Mathematical questions with one final answer."""

  BUILDER_CONFIGS = [
      domain.Source(
          name="arith", module="r1jax.data.sources.builders.arith",
          beside="../arithmetic.py"),
      domain.Source(
          name="world-sums", module="r1jax.data.sources.world.prompts:sums",
          beside="*.py"),
      domain.Source(
          name="gsm8k", reader=readers_math.gsm8k, first_ids=_GSM8K_IDS,
          files={"train": ("train.jsonl",), "validation": ("train.jsonl",),
                 "test": ("test.jsonl",)}),
      domain.Source(
          name="math", reader=readers_math.math,
          files={split: (f"{split}.jsonl", f"{split}.json", f"{split}/*/*.json")
                 for split in ("train", "test")}),
      domain.Source(
          name="aime", reader=readers_math.aime,
          files={"test": ("[Aa][Ii][Mm][Ee]*.csv", "[Aa][Ii][Mm][Ee]*.jsonl",
                          "test.csv", "test.jsonl")}),
      domain.Source(
          name="cnmo", reader=readers_math.cnmo,
          files={"test": ("*CNMO*.jsonl", "*cnmo*.jsonl", "*CNMO*.json",
                          "test.jsonl")}),
      domain.Source(
          name="imo_answerbench", reader=readers_math.imo_answerbench,
          files={"test": ("answerbench*.csv",)}),
      domain.Source(
          name="cmath", reader=readers_math.cmath,
          files={"dev": ("cmath_dev.jsonl",),
                 "distractor": ("distractor.jsonl",)}),
      domain.Source(
          name="mgsm", reader=readers_math.mgsm,
          files={"test": ("mgsm_*.tsv",)}),
      domain.Source(
          name="prompts",
          reader=functools.partial(readers_general.prompts, domain="math")),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = domain.instructions(BUILDER_CONFIGS)
