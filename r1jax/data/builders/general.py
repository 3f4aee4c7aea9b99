"""tfds data set of general prompts: instructions and preferences."""

from __future__ import annotations

import functools

from r1jax.data.builders import domain, readers_general


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
          name="constraints", module="r1jax.data.generated.constraints",
          beside="draws.py"),
      *(domain.Source(
          name=f"world-{name}", module=f"r1jax.data.world.prompts:{inside}",
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
  """Own prompts of any domain."""

  BUILDER_CONFIGS = [
      domain.Source(name="prompts", reader=readers_general.prompts)]
  MANUAL_DOWNLOAD_INSTRUCTIONS = domain.instructions(BUILDER_CONFIGS)
