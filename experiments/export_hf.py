"""A model as a folder that transformers, vLLM and others read.

  python -m experiments.export_hf --init=orbax:runs/zero --out=exported
  python -m experiments.export_hf --init=hf:DIR --out=exported --fp8

Writes safetensors in files of --shard_gb with their index, config.json,
generation_config.json, the tokenizer's files and a README.md that says how the
model was made, all of it or nothing. What it wrote, r1jax reads back as
--init=hf:exported.
"""

from __future__ import annotations

import sys

from absl import flags

from r1jax.core.config import check
from r1jax.stages import exporting

from . import common, start

OUT = flags.DEFINE_string("out", "", "Folder to write; new or empty.")
DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"], "Of what is stored.")
SHARD_GB = flags.DEFINE_float("shard_gb", 5.0, "Largest file, in GB.")
FP8 = flags.DEFINE_bool(
    "fp8", False, "Matrices of the blocks as FP8 (e4m3) with a scale for every"
    " 128 x 128, as in DeepSeek-V3's files; this rounds.")


def main() -> None:
  check(bool(OUT.value), "give --out=DIR, a new folder")
  check(SHARD_GB.value > 0, f"--shard_gb={SHARD_GB.value} must be positive")
  exporting.check_unused(OUT.value)  # before the work, not after it
  policy, tokenizer = common.policy(0, common.mesh())
  about = exporting.write(
      OUT.value, policy, tokenizer, init=common.INIT.value,
      command=" ".join(["python -m experiments.export_hf", *sys.argv[1:]]),
      dtype=DTYPE.value, shard_bytes=SHARD_GB.value * 1e9, fp8=FP8.value)
  print(f"{about}\nwrote {OUT.value}; use it as --init=hf:{OUT.value}",
        flush=True)


if __name__ == "__main__":
  start.run(main)
