"""tfds data set of logic and puzzles."""

from __future__ import annotations

import functools

from r1jax.data.sources.builders import domain, readers_general, readers_logic


class Logic(domain.Domain):
  """Logic: questions, puzzles, and predicting inputs or outputs of programs."""

  BUILDER_CONFIGS = [
      domain.Source(
          name="bbh", reader=readers_logic.bbh, files={"test": ("*.json",)}),
      domain.Source(
          name="logicbench", reader=readers_logic.logicbench,
          files={"test": ("*QA/*/*/data_instances.json",)}),
      domain.Source(
          name="game24", reader=readers_logic.game24,
          files={"test": ("24.csv",)}),
      domain.Source(
          name="cruxeval", reader=readers_logic.cruxeval,
          files={"test": ("cruxeval.jsonl",)}),
      domain.Source(
          name="cruxeval_input", reader=readers_logic.cruxeval_input,
          folder="cruxeval", files={"test": ("cruxeval.jsonl",)}),
      domain.Source(
          name="cluewsc", reader=readers_logic.cluewsc,
          files={"dev": ("dev*.json", "dev*.jsonl"),
                 "train": ("train*.json", "train*.jsonl")}),
      *(domain.Source(
          name=name, module=f"r1jax.data.sources.generated.{name}",
          beside="draws.py")
        for name in ("knights", "zebra", "ciphers", "gym")),
      domain.Source(
          name="world-cups", module="r1jax.data.sources.world.prompts:swaps",
          beside="*.py"),
      domain.Source(
          name="prompts",
          reader=functools.partial(readers_general.prompts, domain="logic")),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = domain.instructions(BUILDER_CONFIGS)
