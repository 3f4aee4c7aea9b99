"""Measures the memory of import, sampling and a GRPO step on a CPU.

  python -m experiments.benchmarks.memory --model=llama-1b
  python -m experiments.benchmarks.memory --model=qwen-0.5b --parts=grpo \\
      --more='--compute.remat=full --micro_rows=4'

The model has a published config and made-up bfloat16 weights, in several
safetensors files with a tokenizer of the published size; nothing is downloaded.
Each part is the command that a user types. Peaks are of the whole process,
interpreter included, but without child processes. They depend on the allocator:
run this with launch/env.sh, without it, or with GLIBC_TUNABLES= for glibc's
defaults.

  import  experiments.import_hf
  sample  experiments.sample of what was imported: 64 tokens
  grpo    one step of experiments.train_grpo with float32 masters

  peak_mb   largest resident memory
  of_model  of import and sample: peak_mb / the model's size in bfloat16
  seconds   duration of the command
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shlex
import shutil
import tempfile

from absl import flags

from r1jax.accounting import flops
from r1jax.checkpoint import hf_config
from r1jax.report import tables

from .. import command, start
from . import made_up, measured
from .output import JSON

MODEL = flags.DEFINE_enum(
    "model", "llama-1b", list(made_up.CONFIGS), "The published config.")
PARTS = flags.DEFINE_multi_enum(
    "parts", ["import", "sample"], ["import", "sample", "grpo"],
    "Parts to run; repeat the flag for several.")
DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"],
    "Dtype that sample and grpo compute in.")
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Of sample; 0 is greedy.")
NEW = flags.DEFINE_integer(
    "new", 256, "Longest completion of grpo, in tokens; most of its time.")
MORE = flags.DEFINE_string(
    "more", "", "Further flags of every command, as in a shell.")
FOLDER = flags.DEFINE_string(
    "folder", "", "Where models and runs are written and stay; default: a"
    " temporary folder. A model that is there is used again.")


def run(name: str, *arguments: str) -> dict[str, float]:
  """Runs an experiment; returns its seconds and largest resident memory.

  Raises:
    ValueError: it failed; its own output says why.
  """
  return measured.run(
      [*command.words(name), *arguments, *shlex.split(MORE.value)])


def measure(folder: pathlib.Path) -> dict[str, dict[str, float]]:
  """Runs the parts; the module describes the names."""
  source, imported = folder / MODEL.value, folder / f"{MODEL.value}-imported"
  fields, results = made_up.CONFIGS[MODEL.value], {}
  if not source.exists():
    made_up.model(source, fields)
  size = 2 * flops.parameters(hf_config.from_hf(fields)).total / 2**20
  if "import" in PARTS.value:
    shutil.rmtree(imported, ignore_errors=True)
    results["import"] = run(
        "import_hf", f"--from={source}", f"--workdir={imported}",
        "--compute.param_dtype=bfloat16")
  if "sample" in PARTS.value:
    results["sample"] = run(
        "sample", f"--init=orbax:{imported}", "--question=What is 17 + 5?",
        f"--compute.dtype={DTYPE.value}", "--compute.param_dtype=bfloat16",
        f"--temperature={TEMPERATURE.value}", "--max_new_tokens=64",
        "--template=plain")
  for found in results.values():
    found["of_model"] = found["peak_mb"] / size
  if "grpo" in PARTS.value:
    results["grpo"] = step(folder, source)
  return results


def step(folder: pathlib.Path, source: pathlib.Path) -> dict[str, float]:
  """One step of GRPO: 2 questions x 8 samples in rows of 512 tokens."""
  workdir = folder / f"{MODEL.value}-grpo"
  shutil.rmtree(workdir, ignore_errors=True)
  return run(
      "train_grpo", f"--init=hf:{source}", f"--workdir={workdir}",
      "--recipe=r1-zero", "--steps=1", "--questions=2", "--samples=8",
      "--minibatches=1", "--row_length=512", f"--compute.dtype={DTYPE.value}",
      f"--max_new_tokens={NEW.value}", "--stage_steps=", "--template=plain",
      "--data=arith", "--eval_every=0", "--rewards.workers=1")


def main() -> None:
  with contextlib.ExitStack() as held:
    folder = FOLDER.value or held.enter_context(
        tempfile.TemporaryDirectory(prefix="memory"))
    results = measure(pathlib.Path(folder))
  if JSON.value:
    print(json.dumps(results), flush=True)
    return
  print(tables.render(
      ["part", "peak, MiB", "of the model", "seconds"],
      [[part, f"{found['peak_mb']:,.0f}", f"{found.get('of_model', 0):.2f}",
        f"{found['seconds']:.0f}"] for part, found in results.items()]),
        flush=True)


if __name__ == "__main__":
  start.run(main)
