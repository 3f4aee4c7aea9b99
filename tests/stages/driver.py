"""A GRPO run in a process of its own, to be killed by test_resume.py.

  python -m tests.stages.driver WORKDIR STEPS
"""

import sys

from r1jax.stages import grpo
from tests.stages import cases


def train(workdir, steps):
  """The run that all processes share; `steps` alone may differ."""
  return grpo.run(cases.config(steps=steps), cases.handed(), cases.judge(),
                  cases.prompts(), workdir)


if __name__ == "__main__":
  train(sys.argv[1], int(sys.argv[2]))
