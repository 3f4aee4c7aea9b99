"""On-policy distillation: a student learns from a teacher on its own samples.

  python -m experiments.distill --init=orbax:runs/student_sft \\
      --teacher=orbax:runs/r1 --workdir=runs/distill
  python -m experiments.distill --init=hf:DIR --teacher=hf:BIG \\
      --distill.factor=0 --distill.divergence=1 --distill.beta=0.5

The loop, its flags and its recipes are train_grpo's. The advantage of a token
is reward A - factor (log pi - log pi_T); --distill.reward=1 keeps the rewards'
own part of it. --distill.divergence adds GKD's divergence over the whole
vocabulary. Distillation of traces, as the paper's, is supervised: train_sft on
what experiments.rejection writes.
"""

from __future__ import annotations

import jax
from absl import flags

from r1jax.core.config import check
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.losses.distill import DistillConfig
from r1jax.stages import weights
from r1jax.stages.weights import Weights

from . import common, flagset, start, train_grpo

TEACHER = flags.DEFINE_string(
    "teacher", "", "Parameters of the teacher, as --init; of the same"
    " tokenizer.")
flags.set_default(train_grpo.WORKDIR, "runs/distill")
# The teacher alone, by the samples.
DISTILL = flagset.define(DistillConfig(factor=1.0, reward=0.0), "distill")


def main() -> None:
  check(bool(TEACHER.value), "--teacher=orbax:WORKDIR or hf:DIR must be given")
  train_grpo.train(teacher, DISTILL)


def teacher(own: Tokenizer, mesh: jax.sharding.Mesh | None
            ) -> tuple[Weights, dict[str, str]]:
  """The model of --teacher, if it reads what the student writes; its settings.
  """
  began = common.settings_of(train_grpo.WORKDIR.value).get("teacher", {})
  init = common.frozen(TEACHER.value, began.get("init", ""))
  teacher_weights, tokenizer = weights.with_tokenizer(
      init, common.COMPUTE.value(), mesh=mesh)
  tokenizer_lib.check_same(own, tokenizer, f"--teacher={TEACHER.value}")
  about = {"init": init,
           "parameters": weights.fingerprint(teacher_weights)}
  # The run has no use of another copy.
  return weights.computing(teacher_weights, mesh), about


if __name__ == "__main__":
  start.run(main, many=True)
