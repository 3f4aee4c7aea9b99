"""The reward rules by name.

A rule is a function of (prompt, response). Accuracy is a table of rules, from
which the prompt's verifier chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from r1jax.rewards import (
  format,
  harm,
  instructions,
  language,
  requests,
  shaping,
)
from r1jax.rewards.answers import choice, spans
from r1jax.rewards.logic import puzzles, verdicts
from r1jax.rewards.maths import answer
from r1jax.rewards.programs import sandbox, solutions
from r1jax.rewards.score import Rule

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt
  from r1jax.rewards.combine import RewardConfig

VERIFIERS: dict[str, Rule] = {
    "math": answer.verify,
    "choice": choice.verify,
    "code": solutions.all_passed,
    "bugfix": solutions.all_passed,
    "drop": spans.verify,
    "exact": verdicts.exact,
    "set": verdicts.unordered,
    "grid": verdicts.grid,
    "literal": verdicts.literal,
    "program_input": verdicts.program_input,
    "game24": verdicts.game24,
    "puzzle": puzzles.verify,
    "instructions": instructions.verify,
    "request": requests.verify,
    "harm": harm.verify,
}
# Verifiers that run programs in the sandbox.
PROGRAMS = ("code", "bugfix", "program_input")


def check(prompts: Iterable[Prompt]) -> None:
  """Checks that this machine has what the prompts' verifiers need.

  Raises:
    SandboxError: a verifier runs programs, and there is no sandbox, or none
      with the packages that they may import.
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
  """RULES, with the variants that the config chooses."""
  rules = dict(RULES)
  if config.extract == "last":
    rules["accuracy"] = VERIFIERS | {"math": answer.verify_last}
  if config.code == "fraction":
    rules["accuracy"] = rules["accuracy"] | {
        name: solutions.fraction_passed for name in ("code", "bugfix")}
  if config.format == "think":
    rules["format"] = format.think
  if config.language == "detector":
    rules["language"] = language.consistency_detected
  return rules
