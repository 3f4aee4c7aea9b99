"""The rules that a config chooses, and what they need of a machine."""

import importlib.util

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import format, language, response, rules
from r1jax.rewards.combine import RewardConfig
from r1jax.rewards.logic import puzzles
from r1jax.rewards.programs import sandbox, solutions
from tests.rewards import sandboxed


def _prompt(verifier, reference=""):
  return Prompt(id=0, domain="code", source="", messages=ask("?"),
                reference=reference, verifier=verifier)


def test_a_config_chooses():
  assert rules.select(RewardConfig()) == rules.RULES
  found = rules.select(RewardConfig(
      code="fraction", format="think", language="detector"))
  assert found["accuracy"]["code"] is solutions.fraction_passed
  assert found["accuracy"]["bugfix"] is solutions.fraction_passed
  assert found["accuracy"]["math"] is rules.VERIFIERS["math"]
  assert found["format"] is format.think
  assert found["language"] is language.consistency_detected
  assert rules.VERIFIERS["code"] is solutions.all_passed  # and changes nothing


@pytest.mark.parametrize("name", ["code", "format", "language"])
def test_unknown_words(name):
  with pytest.raises(ValueError, match=f"{name}='odd' is not one of"):
    RewardConfig(**{name: "odd"})


def test_a_fraction_is_paid():
  sandboxed.require()
  prompt = _prompt("code", {"kind": "stdin", "inputs": ["1", "2"],
                            "outputs": ["1", "7"]})
  found = response.split("", "```python\nprint(input())\n```")
  for which, value in (("all", 0.0), ("fraction", 0.5)):
    verify = rules.select(RewardConfig(code=which))["accuracy"]["code"]
    assert verify(prompt, found).value == value


@pytest.mark.parametrize("verifier", ["code", "bugfix", "program_input"])
def test_programs_need_a_sandbox(monkeypatch, verifier):
  def missing():
    raise sandbox.SandboxError("install bubblewrap")

  monkeypatch.setattr(sandbox, "check", missing)
  rules.check([_prompt("math"), _prompt("")])
  with pytest.raises(sandbox.SandboxError, match="install bubblewrap"):
    rules.check([_prompt("math"), _prompt(verifier)])


def test_puzzles_need_their_library(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="pip install -e '..puzzles.'"):
    rules.check([_prompt("puzzle")])
  assert puzzles.MISSING
