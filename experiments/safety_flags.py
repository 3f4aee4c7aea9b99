"""Flags of jailbreaks in evaluate_safety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from absl import flags

from r1jax.core.prompt import Prompt
from r1jax.safety import jailbreaks
from r1jax.safety.verdicts import is_harmful

JAILBREAKS = flags.DEFINE_string(
    "jailbreaks", "", "Jailbreak templates in which the harmful questions are"
    " asked too, separated by commas: world (the small world's), a folder with"
    " GPTFuzz's file, or .csv, .tsv, .jsonl and .txt files with [INSERT PROMPT"
    " HERE] or {question} in each template.")
TEMPLATES = flags.DEFINE_integer(
    "jailbreak_templates", 1, "Number of different templates per question.")
SEED = flags.DEFINE_integer(
    "jailbreak_seed", 0, "Seed of the choice of templates.")


def jailbroken(parts: Mapping[str, Sequence[Prompt]]
               ) -> dict[str, list[Prompt]]:
  """The sets, and for each another one with its harmful questions in templates.

  Questions that are inside a jailbreak already, and multiple choice, are not
  put into templates.
  """
  found = {name: list(prompts) for name, prompts in parts.items()}
  if not JAILBREAKS.value:
    return found
  templates = jailbreaks.read(JAILBREAKS.value.split(","))
  for name, prompts in parts.items():
    harmful = [prompt for prompt in prompts
               if is_harmful(prompt) and not jailbreaks.is_wrapped(prompt)
               and prompt.verifier != "choice"]
    if harmful:
      found[f"{name}-jailbreak"] = jailbreaks.wrap(
          harmful, templates, seed=SEED.value, count=TEMPLATES.value)
  return found
