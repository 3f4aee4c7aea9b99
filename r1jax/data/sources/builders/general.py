"""tfds data set of general prompts: instructions and preferences."""

from __future__ import annotations

import functools

from r1jax.data.sources.builders import (
    domain,
    readers_facts,
    readers_general,
    readers_open,
)


class General(domain.Domain):
  """Instructions to follow, and prompts that only reward models judge."""

  BUILDER_CONFIGS = [
      domain.Source(
          name="ifeval", reader=readers_general.ifeval,
          files={"test": ("input_data.jsonl",)}),
      domain.Source(
          name="pandalm", reader=readers_general.pandalm,
          files={"test": ("testset-v1.json",)}),
      domain.Source(
          name="drop", reader=readers_facts.drop,
          files={split: (f"drop_dataset_{split}.json",)
                 for split in ("train", "dev")}),
      domain.Source(
          name="simpleqa", reader=readers_facts.simpleqa,
          files={"test": ("simple_qa_test_set*.csv",)}),
      domain.Source(
          name="chinese_simpleqa", reader=readers_facts.chinese_simpleqa,
          files={"test": ("chinese_simpleqa*.jsonl",)}),
      domain.Source(
          name="frames", reader=readers_facts.frames,
          files={"test": ("test.tsv",)}, beside=readers_facts.ARTICLES),
      domain.Source(
          name="alpaca_eval", reader=readers_open.alpaca_eval,
          files={"test": ("alpaca_eval_gpt4_baseline.json",
                          "alpaca_eval*.json")},
          beside=readers_open.DIFFICULTY),
      domain.Source(
          name="arena_hard", reader=readers_open.arena_hard,
          files={"test": ("question.jsonl",)}, beside=readers_open.BASELINE),
      domain.Source(
          name="mt_bench", reader=readers_open.mt_bench,
          files={"test": ("mt_bench_question.jsonl", "question.jsonl")}),
      domain.Source(
          name="constraints", module="r1jax.data.sources.generated.constraints",
          beside="draws.py"),
      *(domain.Source(
          name=f"world-{name}",
          module=f"r1jax.data.sources.world.prompts:{inside}",
          beside="*.py")
        for name, inside in (
            ("requests", "general"), ("requests-judged", "general_judged"),
            ("safety", "safety"), ("safety-judged", "safety_judged"))),
      domain.Source(
          name="prompts",
          reader=functools.partial(readers_general.prompts, domain="general")),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = domain.instructions(BUILDER_CONFIGS)


class Mixed(domain.Domain):
  """The user's own prompts, of any domain."""

  BUILDER_CONFIGS = [
      domain.Source(name="prompts", reader=readers_general.prompts)]
  MANUAL_DOWNLOAD_INSTRUCTIONS = domain.instructions(BUILDER_CONFIGS)
