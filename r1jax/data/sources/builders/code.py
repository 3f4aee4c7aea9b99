"""tfds data set of programs to write or repair."""

from __future__ import annotations

import functools

from r1jax.data.sources.builders import (
    domain,
    readers_code,
    readers_contests,
    readers_general,
)

_MBPP_IDS = dict.fromkeys(readers_code.MBPP_SPLITS, 0)


class Code(domain.Domain):
  """Programming tasks with tests."""

  BUILDER_CONFIGS = [
      domain.Source(
          name="humaneval", reader=readers_code.humaneval,
          files={"test": ("HumanEval.jsonl.gz", "HumanEval.jsonl")}),
      domain.Source(
          name="humanevalfix", reader=readers_code.humanevalfix,
          files={"test": ("python.jsonl", "humanevalpack.jsonl")}),
      domain.Source(
          name="mbpp", reader=readers_code.mbpp, first_ids=_MBPP_IDS,
          files={split: ("mbpp.jsonl",) for split in readers_code.MBPP_SPLITS}),
      domain.Source(
          name="mbpp_sanitized", reader=readers_code.mbpp_sanitized,
          folder="mbpp", first_ids=_MBPP_IDS,
          files={split: ("sanitized-mbpp.json",)
                 for split in readers_code.MBPP_SPLITS}),
      domain.Source(
          name="quixbugs", reader=readers_code.quixbugs,
          files={"test": ("json_testcases/*.json",)},
          beside="*python_programs/*.py"),
      domain.Source(
          name="code_contests", reader=readers_contests.code_contests,
          files={split: (f"code_contests_{split}*.jsonl",)
                 for split in ("train", "valid", "test")}),
      domain.Source(
          name="livecodebench", reader=readers_contests.livecodebench,
          files={"test": ("test*.jsonl",)}),
      domain.Source(
          name="codeforces", reader=readers_contests.codeforces,
          files={"test": ("test*.parquet", "test*.jsonl")}),
      domain.Source(
          name="functions", module="r1jax.data.sources.generated.functions",
          beside="draws.py"),
      domain.Source(
          name="prompts",
          reader=functools.partial(readers_general.prompts, domain="code")),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = domain.instructions(BUILDER_CONFIGS)
