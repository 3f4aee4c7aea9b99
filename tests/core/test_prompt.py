"""A question can be had without JAX, and so can every rule."""

import pathlib
import subprocess
import sys


def test_rules_and_prompts_import_no_jax():
  code = (
      "import sys\n"
      "from r1jax.core.prompt import Prompt, ask\n"
      "from r1jax.rewards import rules\n"
      "from r1jax.rewards.score import Score\n"
      "print(sorted({'jax', 'flax', 'numpy'} & set(sys.modules)))\n")
  done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                        text=True, cwd=pathlib.Path(__file__).parents[2])
  assert done.stdout.strip() == "[]", done.stdout + done.stderr
