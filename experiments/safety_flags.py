"""Flags of evaluate_safety: jailbreaks around its questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from absl import flags

from r1jax.core.prompt import Prompt
from r1jax.safety import jailbreaks
from r1jax.safety.verdicts import is_harmful

JAILBREAKS = flags.DEFINE_string(
    "jailbreaks", "", "Templates to ask the harmful questions in as well,"
    " separated by commas: world (the small world's), a folder with GPTFuzz's"
    " file, or .csv, .tsv, .jsonl and .txt files with [INSERT PROMPT HERE] or"
    " {question} in each template.")
TEMPLATES = flags.DEFINE_integer(
    "jailbreak_templates", 1, "Different templates for each question.")
SEED = flags.DEFINE_integer(
    "jailbreak_seed", 0, "Seed of the draw of templates.")


def jailbroken(parts: Mapping[str, Sequence[Prompt]]
               ) -> dict[str, list[Prompt]]:
  """The questions, and behind each set its harmful ones in templates.

  Left alone are questions that have a wrapper already, and multiple choice.
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
