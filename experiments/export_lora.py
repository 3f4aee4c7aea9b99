"""Exports the adapter of a LoRA run in the peft package's format.

  python -m experiments.export_lora --init=orbax:runs/sft --out=DIR

The files name the adapter's base model, so that --init=peft:DIR finds it.
To export the parameters with the adapter added use
`experiments.export_hf --init=orbax:WORKDIR`.
"""

from __future__ import annotations

from absl import flags

from r1jax.checkpoint import peft
from r1jax.core.config import check
from r1jax.models.compute import Compute
from r1jax.stages import exporting, weights

from . import start

INIT = flags.DEFINE_string(
    "init", "orbax:runs/sft", "The LoRA run, orbax:WORKDIR.")
OUT = flags.DEFINE_string("out", "", "Folder to write; new or empty.")


def main() -> None:
  check(bool(OUT.value), "--out=DIR must be given")
  with exporting.reserved(OUT.value):  # fail early
    export()


def export() -> None:
  """Writes the adapter of --init to --out."""
  kind, _, workdir = INIT.value.partition(":")
  check(kind == "orbax", f"--init={INIT.value}: give orbax:WORKDIR of a run"
        " with --lora.rank")
  policy, lora, settings = weights.restored(workdir, Compute())
  check(lora.rank > 0, f"{workdir} has no adapter (lora.rank=0); export"
        " its parameters with experiments.export_hf")
  base = weights.named_base(str(settings.get("init", "")))
  check(bool(base), f"{workdir}/config.json does not name the adapter's base"
        " model (init); train it through experiments/")
  peft.save(OUT.value, policy.model.cfg, policy.params, rank=lora.rank,
            alpha=lora.alpha, base=base)
  print(f"wrote {OUT.value}, which adapts {base}; use it as"
        f" --init=peft:{OUT.value}", flush=True)


if __name__ == "__main__":
  start.run(main)
