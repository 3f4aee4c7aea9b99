"""Exports a model as a folder that transformers reads.

  python -m experiments.export_hf --init=orbax:runs/zero --out=exported
  python -m experiments.export_hf --init=hf:DIR --out=exported --fp8

Writes safetensors in files of --shard_gb with their index, config.json,
generation_config.json, the tokenizer's files and a README.md that says how the
model was made: all of it or nothing. r1jax reads it as --init=hf:exported.
"""

from __future__ import annotations

import sys

from absl import flags

from r1jax.core.config import check
from r1jax.stages import exporting

from . import common, start

OUT = flags.DEFINE_string("out", "", "Folder to write; new or empty.")
DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"],
    "Dtype of the stored parameters.")
SHARD_GB = flags.DEFINE_float(
    "shard_gb", 5.0, "Size of the largest file, in GB.")
FP8 = flags.DEFINE_bool(
    "fp8", False, "Store the layers' matrices as FP8 (e4m3) with one scale per"
    " block of 128 x 128, as in DeepSeek-V3's files; this rounds them.")


def main() -> None:
  check(bool(OUT.value), "give --out=DIR, a new folder")
  check(SHARD_GB.value > 0, f"--shard_gb={SHARD_GB.value} must be positive")
  with exporting.reserved(OUT.value):  # fail early
    init = common.frozen(common.INIT.value)
    policy, tokenizer = common.policy(0, common.mesh(), init)
    about = exporting.write(
        OUT.value, policy, tokenizer, init=init,
        command=" ".join(["python -m experiments.export_hf", *sys.argv[1:]]),
        dtype=DTYPE.value, shard_bytes=SHARD_GB.value * 1e9, fp8=FP8.value)
  print(f"{about}\nwrote {OUT.value}; use it as --init=hf:{OUT.value}",
        flush=True)


if __name__ == "__main__":
  start.run(main)
