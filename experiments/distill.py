"""On-policy distillation: a student is trained by a teacher on its own samples.

  python -m experiments.distill --recipe=embedded --workdir=runs/distill \\
      --init=orbax:runs/r1/student_sft_qwen --teacher=orbax:runs/r1/r1 \\
      --data=world-sums,world-cups --template=plain --rewards.format=think
  python -m experiments.distill --recipe=qwen2.5-1.5b-gpu --init=hf:DIR \\
      --teacher=hf:BIG --data=gsm8k --data_dir=DATA --template=chat \\
      --distill.factor=0 --distill.divergence=1 --distill.beta=0.5

The loop, its flags and its recipes are those of train_grpo. The advantage of a
token is reward A - factor (log pi - log pi_T), with --distill.reward and
--distill.factor; by default only the teacher counts. --distill.divergence adds
GKD's divergence over the whole vocabulary. The paper's distillation is another
one, SFT on a teacher's answers: train_sft on what experiments.rejection writes.
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
    "teacher", "", "The teacher model, in the forms of --init; it must have the"
    " student's tokenizer.")
flags.set_default(train_grpo.WORKDIR, "runs/distill")
# By default only the teacher counts, no rewards.
DISTILL = flagset.define(DistillConfig(factor=1.0, reward=0.0), "distill")


def main() -> None:
  check(bool(TEACHER.value), "--teacher=orbax:WORKDIR or hf:DIR must be given")
  train_grpo.train(teacher, DISTILL)


def teacher(own: Tokenizer, mesh: jax.sharding.Mesh | None
            ) -> tuple[Weights, dict[str, str]]:
  """(the model of --teacher, its settings for the run's config).

  Args:
    own: the student's tokenizer.
    mesh: the mesh to place the teacher on.

  Raises:
    ValueError: the teacher has another tokenizer.
  """
  began = common.settings_of(train_grpo.WORKDIR.value).get("teacher", {})
  init = common.frozen(TEACHER.value, began.get("init", ""))
  teacher_weights, tokenizer = weights.with_tokenizer(
      init, common.COMPUTE.value(), mesh=mesh)
  tokenizer_lib.check_same(own, tokenizer, f"--teacher={TEACHER.value}")
  about = {"init": init,
           "parameters": weights.fingerprint(teacher_weights)}
  # Only the copy in the compute dtype is needed.
  return weights.computing(teacher_weights, mesh), about


if __name__ == "__main__":
  start.run(main, many=True)
