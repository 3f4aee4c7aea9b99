"""Accuracy of reasoning-gym's puzzles, without the loopholes of its scorers.

Every scorer of reasoning-gym 0.1.25 was read. Many give full score for less
than the answer: `game_of_life_halting` for "I do not know", `coin_flip` for the
first digit, `complex_arithmetic` for "nan", `puzzle24` for other numbers,
`number_sorting` for numbers that are each off by one, `calendar_arithmetic` for
anything if the answer is negative, `word_sorting` and `letter_jumble` for words
after the right ones, `figlet_font` for ten right letters, `spell_backward` by
rounding, `polynomial_equations` for junk if there is no root. Nine pass the
answer to `eval` or to sympy, which evaluates it.

So the library's scorers are used only for tasks with several right answers, and
only if their work is bounded (`_SCORED`). Tasks with one right answer are
compared here. The tasks in `LEFT_OUT` are not supported.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from r1jax.rewards.logic import literals, verdicts
from r1jax.rewards.logic.plain import plain
from r1jax.rewards.response import Response
from r1jax.rewards.score import Score, clock_stopped

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt

Entry = Mapping[str, Any]

MISSING = ("these puzzles need reasoning-gym (and a C compiler for one of its"
           " parts): pip install -e '.[puzzles]'")

_MAX_CHARS = 10_000  # longest answer; the largest grid has 2,000
_DECIMAL = r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,3})?"

# Tasks with one right answer, compared as text line by line.
_TEXT = frozenset("""
    ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf
    binary_alternation binary_matrix caesar_cipher calendar_arithmetic
    chain_sum circuit_logic color_cube_rotation count_bits count_primes
    course_schedule decimal_chain_sum dice emoji_mystery family_relationships
    figlet_font futoshiki game_of_life_halting gcd gsm_symbolic
    isomorphic_strings largest_island lcm leg_counting letter_counting
    letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid
    needle_haystack number_sequence path_star products ransom_note rearc
    rectangle_count rotate_matrix rotten_oranges self_reference
    sentence_reordering simple_equations simple_geometry spell_backward
    spiral_matrix string_insertion string_manipulation string_splitting
    string_synthesis sudoku survo syllogism tsumego word_sequence_reversal
    word_sorting zebra_puzzles""".split())

# Tasks with several right answers, judged by the library's scorer if the answer
# matches the pattern. None of these scorers evaluates the answer; their work is
# linear in its length.
_SCORED = {
    "cryptarithm": r"[A-Z=,\d\s]+",
    "graph_color": r"[\s\S]+",
    "group_anagrams": r"[\s\S]+",
    "jugs": r"[\s\S]+",
    "kakurasu": r"[01\s]+",
    "knight_swap": r"[\s\S]+",
    "palindrome_generation": r"\w+",
    "palindrome_partitioning": r"[\s\S]+",
    "quantum_lock": r"[A-Ca-c→\->,\s]+",
    "shortest_path": r"[a-z\s]+",
    "sokoban": r"[LRUD\s]+",
    "time_intervals": r"[\d:.,\s]+(?:days?[\d:.,\s]*)?",
    "tower_of_hanoi": r"[\w\s.]+",
    "word_ladder": r"[A-Za-z,\s]+",
}

LEFT_OUT = {
    "boxnet": "no known answer to test the scorer with",
    "composite": "needs a configuration; use its parts",
    "intermediate_integration": "sympy evaluates the answer",
    "polynomial_multiplication": "sympy evaluates the answer",
    "propositional_logic": "a premise copied from the question is rewarded",
    "rubiks_cube": "R999999999 fills the memory; no known answer",
    "rush_hour": "no known answer to test the scorer with",
    "simple_integration": "sympy evaluates the answer",
}


def verify(prompt: Prompt, response: Response) -> Score:
  """1 if the answer solves the puzzle, else 0; no partial credit.

  `prompt.reference` is {"task": a name in `TASKS`, "entry": reasoning-gym's
  entry as JSON}. Storing an entry as JSON turns tuples into lists and keys into
  strings, which no task here depends on. Scorers have the library's default
  configuration.

  The final answer is that of `verdicts.final_answer`; if the right answer has
  several lines or is not known, the whole answer is used instead of its last
  line. Reasons: "correct", "wrong", "unparsed", "no answer", "two answers",
  "too long" and others of `verdicts.final_answer`. Parts: scorer, the library's
  own score if it was used.

  Raises:
    ValueError: a task that is not supported, with the reason.
  """
  task, entry = prompt.reference["task"], prompt.reference["entry"]
  if task not in TASKS:
    raise ValueError(
        f"puzzle {task!r} of prompt {prompt.id}: "
        f"{LEFT_OUT.get(task, 'unknown')}; supported: {sorted(TASKS)}")
  gold = entry["answer"]
  whole = not isinstance(gold, str) or "\n" in gold.strip()
  answer, reason = verdicts.final_answer(response, whole=whole)
  if answer is None:
    return Score(0.0, True, reason)
  answer = re.sub(r"^\*\*(.+)\*\*$", r"\1", answer.strip("`").strip())
  if len(answer) > _MAX_CHARS:
    return Score(0.0, True, "too long")
  if task in _SCORED:
    return _scored(task, answer, entry)
  try:
    right = _CHECKS.get(task, _text)(answer, entry)
  except (ValueError, ArithmeticError, RecursionError, TypeError):
    return Score(0.0, True, "unparsed", answer=answer)
  reason = "correct" if right else "wrong"
  return Score(float(right), True, reason, answer=answer)


def _scored(task: str, answer: str, entry: Entry) -> Score:
  if not re.fullmatch(_SCORED[task], answer):
    return Score(0.0, True, "unparsed", answer=answer)
  scorer = _scorer(task)
  # A copy, because knight_swap writes into the metadata.
  entry = {**entry, "metadata": {**entry["metadata"]}}
  try:
    value = float(scorer(answer, entry))
  except Exception:  # unusual answers make scorers raise any error
    return Score(0.0, True, "unparsed", answer=answer)
  right = 1.0 <= value < 1.001  # not NaN either
  reason = "correct" if right else "wrong"
  return Score(float(right), True, reason, {"scorer": value}, answer)


def check() -> None:
  """Checks that reasoning-gym is installed, without importing it.

  Raises:
    ValueError: it is not; the message says how to install it.
  """
  if importlib.util.find_spec("reasoning_gym") is None:
    raise ValueError(MISSING)


@functools.cache
def _scorer(task: str) -> Callable[[str, Entry], float]:
  """The library's scorer; the deadline stops while it is imported."""
  with clock_stopped():
    try:
      import reasoning_gym
    except ModuleNotFoundError:
      raise RuntimeError(MISSING) from None
    return reasoning_gym.get_score_answer_fn(task)


def _text(answer: str, entry: Entry) -> bool:
  """Whether lines are equal up to case, white space and `plain`."""
  gold = entry["answer"]
  lines, gold_lines = ([" ".join(line.casefold().split())
                        for line in text.strip().splitlines() if line.strip()]
                       for text in (answer, gold))
  if lines == gold_lines:
    return True
  # Only if `plain` removes nothing from the ends of the gold answer.
  return (len(gold_lines) == 1 and bool(re.fullmatch(r"-?\w|-?\w.*\w", gold))
          and "_" not in gold and plain(answer) == plain(gold))


def _expression(answer: str, entry: Entry) -> bool:
  """Countdown and 24: uses every number once and gives the target."""
  metadata = entry["metadata"]
  score = verdicts.makes(
      answer, metadata["numbers"], metadata.get("target", 24))
  return score.value == 1


def _decimals(text: str) -> list[Decimal]:
  """The numbers of a list or matrix; ValueError if there is anything else."""
  words = re.sub(r"[][(),;\s$]|\\[,()\[\]]", " ", text.replace("°", "")).split()
  for word in words:
    if not re.fullmatch(_DECIMAL, word, re.ASCII):
      raise ValueError(word)
  return [Decimal(word) for word in words]


def _near(tolerance: str, *, ordered: bool = True) -> Callable[..., bool]:
  """A check of numbers that may each be off by `tolerance`."""
  def check(answer: str, entry: Entry) -> bool:
    got, gold = _decimals(answer), _decimals(entry["answer"])
    if not ordered:
      got, gold = sorted(got), sorted(gold)
    return bool(gold) and len(got) == len(gold) and all(
        abs(a - b) <= Decimal(tolerance) for a, b in zip(got, gold))
  return check


def _matrix(answer: str, entry: Entry) -> bool:
  """A matrix of the right shape, with entries right to two decimals."""
  shapes = [[len(_decimals(row)) for row in text.strip().splitlines()]
            for text in (answer, entry["answer"])]
  return shapes[0] == shapes[1] and _near("0.0051")(answer, entry)


def _amount(answer: str, entry: Entry) -> bool:
  """A number, with or without thousands separators."""
  answer = re.sub(r"(?<=\d),(?=\d{3})", "", answer)
  return _near("0.01")(answer, entry)


def _relative(digits: int) -> Callable[[str, Entry], bool]:
  """A check that a number is right to `digits` significant digits."""
  def check(answer: str, entry: Entry) -> bool:
    (got,), (gold,) = _decimals(answer), _decimals(entry["answer"])
    if got == gold:
      return True
    places = digits - 1
    return f"{got:.{places}e}" == f"{gold:.{places}e}"
  return check


def _probability(answer: str, entry: Entry) -> bool:
  """A decimal or a fraction, right to 0.1 %."""
  if not re.fullmatch(r"\d{1,40}\s*/\s*\d{1,40}|" + _DECIMAL, answer, re.ASCII):
    raise ValueError(answer)
  value, gold = Fraction("".join(answer.split())), Fraction(entry["answer"])
  return abs(value - gold) <= gold / 1000


def _complex(answer: str, entry: Entry) -> bool:
  text = re.sub(r"[\s()$]", "", answer).replace("i", "j").replace("−", "-")
  if not re.fullmatch(r"[-+\d.]{1,80}j?(?:[-+][\d.]{0,40}j?)?", text, re.ASCII):
    raise ValueError(answer)
  return complex(text) == complex(*entry["metadata"]["result"])


def _fraction(answer: str, entry: Entry) -> bool:
  """A fraction in lowest terms, as `a/b` or in TeX."""
  match = re.fullmatch(
      r"\$?\s*(?:(\d{1,40})\s*/\s*(\d{1,40})"
      r"|\\[dt]?frac\s*\{\s*(\d{1,40})\s*\}\s*\{\s*(\d{1,40})\s*\})\s*\$?",
      answer.removesuffix("."), re.ASCII)
  if match is None:
    raise ValueError(answer)
  above, below = filter(None, match.groups())
  metadata = entry["metadata"]
  return (int(above) == metadata["simplified_numerator"]
          and int(below) == metadata["simplified_denominator"])


def _integer(answer: str, entry: Entry) -> bool:
  """An integer, in any of Python's notations (0x, 0b, 0o)."""
  return int(answer[:100], 0) == int(entry["answer"], 0)


def _numbers(answer: str, entry: Entry) -> bool:
  """A list of numbers, as numbers or as strings, in order."""
  got, gold = literals.parse(answer), literals.parse(entry["answer"])
  if not isinstance(got, list):
    return False
  return [Decimal(str(x)) for x in got] == [Decimal(str(x)) for x in gold]


def _json(answer: str, entry: Entry) -> bool:
  return literals.spelling(json.loads(answer)) == literals.spelling(
      json.loads(entry["answer"]))


def _board(answer: str, entry: Entry) -> bool:
  """One of the boards that solve the n queens puzzle."""
  got = [line.split() for line in answer.strip().splitlines()]
  return got in [[line.split() for line in board.strip().splitlines()]
                 for board in entry["metadata"]["valid_answers"]]


def _claims(text: str) -> set[str]:
  """The set of claims in "Zoey is a knight, and Bob is a knave"."""
  parts = re.split(r"[,.;\n]|\band\b", re.sub(r"\ban?\b", "", text.casefold()))
  return {" ".join(part.strip(" -*•").split()) for part in parts} - {""}


_CHECKS: dict[str, Callable[[str, Entry], bool]] = {
    "advanced_geometry": _near("0.0051"),
    "bitwise_arithmetic": _integer,
    "codeio": _json,
    "coin_flip": _probability,
    "complex_arithmetic": _complex,
    "countdown": _expression,
    "decimal_arithmetic": _relative(8),
    "fraction_simplification": _fraction,
    "game_of_life": _json,
    "knights_knaves": lambda answer, entry: (
        _claims(answer) == _claims(entry["answer"])),
    "list_functions": _json,
    "n_queens": _board,
    "number_filtering": _numbers,
    "number_format": _amount,
    "number_sorting": _numbers,
    "polynomial_equations": _near("0.00011", ordered=False),
    "pool_matrix": _matrix,
    "power_function": _relative(3),
    "prime_factorization": lambda answer, entry: (
        sorted(re.split(r"[×*\s]+", answer.replace("\\times", "×").strip("$ ")))
        == sorted(re.split(r"[×*\s]+", entry["answer"]))),
    "puzzle24": _expression,
}

TASKS = frozenset(_TEXT | _SCORED.keys() | _CHECKS.keys())
