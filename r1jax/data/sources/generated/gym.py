"""Tasks of reasoning-gym 0.1.25: generated puzzles and sums, no download.

Of its 106 tasks, TASKS has those that

  - make the same entries in every process (`codeio`, `list_functions`,
    `word_ladder` and four more do not),
  - survive a round trip through JSON,
  - accept their own answer and reject incomplete ones,
  - have no single answer to most questions (`syllogism`: "Yes" to 3 of 4), and
  - have questions that are short enough to train on.

`gsm_symbolic` is left out because it is derived from GSM8K, whose test split is
used for evaluation.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws

# Category -> tasks. The kinds that the R1 paper names are among them: ciphers
# (caesar_cipher), zebra puzzles, the 24 game (puzzle24, countdown), probability
# (coin_flip, dice).
TASKS = {
    "algebra": ("simple_equations",),
    "arithmetic": (
        "basic_arithmetic", "calendar_arithmetic", "chain_sum", "count_bits",
        "decimal_chain_sum", "dice", "gcd", "lcm", "leg_counting",
        "number_format", "products", "time_intervals"),
    "geometry": ("simple_geometry",),
    "algorithmic": (
        "base_conversion", "binary_matrix", "caesar_cipher", "count_primes",
        "cryptarithm", "jugs", "letter_counting", "manipulate_matrix",
        "number_filtering", "number_sorting", "rotate_matrix", "spiral_matrix",
        "string_manipulation", "string_synthesis", "word_sequence_reversal",
        "word_sorting"),
    "cognition": ("color_cube_rotation", "number_sequence"),
    "games": (
        "countdown", "kakurasu", "maze", "mini_sudoku", "n_queens", "puzzle24",
        "survo", "tower_of_hanoi"),
    "graphs": ("family_relationships", "largest_island", "shortest_path"),
    "induction": ("acre",),
    "logic": ("aiw", "knights_knaves", "self_reference", "zebra_puzzles"),
    "probability": ("coin_flip",),
}
_MATH = ("algebra", "arithmetic", "geometry")
_ORDER = tuple(
    (task, category) for category, tasks in TASKS.items() for task in tasks)
# Small, because some tasks make at most 15 entries per second (zebra_puzzles,
# puzzle24).
_PER_TASK = {"train": 40, "validation": 3, "test": 3}

SPLITS = {split: rows * len(_ORDER) for split, rows in _PER_TASK.items()}


def prompts(split: str) -> Iterator[Prompt]:
  """The tasks in turn, each with reasoning-gym's default settings.

  reference: task (its name) and entry (reasoning-gym's question, answer and
  metadata, after a round trip through JSON). metadata: task, category.

  Raises:
    ValueError: no such split.
    ValueError: (while iterating) reasoning-gym 0.1.25 is not installed.
  """
  return draws.distinct("gym", SPLITS, split, _prompt)


def _prompt(dice: draws.Dice, split: str, index: int) -> Prompt | None:
  task, category = _ORDER[index % len(_ORDER)]
  entry = _entry(task, dice.below(2**31))
  if draws.share(entry["question"]) != split:
    return None
  return Prompt(
      id=index, domain="math" if category in _MATH else "logic",
      source=f"gym/{task}", messages=ask(entry["question"]),
      reference={"task": task, "entry": entry}, verifier="puzzle",
      metadata={"task": task, "category": category})


def _entry(task: str, seed: int) -> dict[str, Any]:
  # A data set of one entry, which is a function of the seed.
  made = _create()(task, size=1, seed=seed)[0]
  return json.loads(json.dumps(made))


@functools.cache
def _create():
  """reasoning-gym's factory; imported here because it takes seconds."""
  import importlib.metadata

  try:
    import reasoning_gym
  except ModuleNotFoundError:
    raise ValueError(
        "'gym' needs reasoning-gym (and a C compiler for one of its"
        " dependencies): pip install -e '.[puzzles]'") from None

  version = importlib.metadata.version("reasoning-gym")
  if version != "0.1.25":
    raise ValueError(
        f"reasoning-gym {version} is installed; the tasks were chosen and"
        " their answers checked with 0.1.25: pip install"
        " reasoning-gym==0.1.25")
  return reasoning_gym.create_dataset
