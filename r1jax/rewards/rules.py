"""The rules by name.

A rule is a function of (prompt, response). Accuracy is a table of them: the
prompt says which one judges it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from r1jax.rewards import (
  code,
  format,
  harm,
  instructions,
  language,
  logic,
  puzzles,
  requests,
  sandbox,
  shaping,
  stem,
)
from r1jax.rewards.maths import answer
from r1jax.rewards.score import Rule

if TYPE_CHECKING:
  from r1jax.core.types import Prompt
  from r1jax.rewards.combine import RewardConfig

VERIFIERS: dict[str, Rule] = {
    "math": answer.verify,
    "choice": stem.verify,
    "code": code.all_passed,
    "bugfix": code.all_passed,
    "exact": logic.exact,
    "set": logic.unordered,
    "grid": logic.grid,
    "literal": logic.literal,
    "program_input": logic.program_input,
    "game24": logic.game24,
    "puzzle": puzzles.verify,
    "instructions": instructions.verify,
    "request": requests.verify,
    "harm": harm.verify,
}
# Those that run a program in the sandbox.
PROGRAMS = ("code", "bugfix", "program_input")


def check(prompts: Iterable[Prompt]) -> None:
  """Makes sure that this machine has what the prompts' verifiers need.

  Raises:
    SandboxError: a program is to be judged, and there is no sandbox, or none
      with the packages that it may import.
    ValueError: a library is missing.
  """
  prompts = list(prompts)
  needed = {prompt.verifier for prompt in prompts}
  if needed.intersection(PROGRAMS):
    sandbox.check()
    sandbox.shown(sorted({
        name for prompt in prompts if prompt.verifier in PROGRAMS
        for name in prompt.reference.get("packages", ())}))
  if "puzzle" in needed:
    puzzles.check()

RULES: dict[str, Rule | Mapping[str, Rule]] = {
    "accuracy": VERIFIERS,
    "format": format.think_answer,
    "language": language.consistency,
    "length": shaping.length,
    "repetition": shaping.repetition,
}


def select(config: RewardConfig) -> dict[str, Rule | Mapping[str, Rule]]:
  """RULES with what the config chooses among them."""
  rules = dict(RULES)
  if config.code == "fraction":
    rules["accuracy"] = VERIFIERS | {
        name: code.fraction_passed for name in ("code", "bugfix")}
  if config.format == "think":
    rules["format"] = format.think
  if config.language == "detector":
    rules["language"] = language.consistency_detected
  return rules
