"""A question can be had without JAX, and so can every rule."""

import dataclasses
import pathlib
import pickle
import subprocess
import sys

import pytest

from r1jax.core import prompt as prompts


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


def test_prompt_is_frozen_and_travels_between_processes():
  prompt = prompts.Prompt(
      id=3, domain="math", source="s", messages=prompts.ask("1+1?"),
      reference="2", verifier="math")
  assert pickle.loads(pickle.dumps(prompt)) == prompt
  assert prompt.language == "en" and not prompt.metadata
  assert prompt.question == "1+1?"
  with pytest.raises(dataclasses.FrozenInstanceError):
    prompt.id = 4
