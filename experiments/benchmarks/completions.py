"""Completions to test rewards with: right ones, mutated ones, random ones."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards.score import Score

# Valid range of a reward's values; [0, 1] for the others.
RANGES = {"repetition": (-1.0, 0.0)}

_DOUBLE = "```python\nprint(2 * int(input()))\n```"
_ADD = "```python\ndef add(a, b):\n  return a + b\n```"
# Verifier, reference, metadata, an answer that the verifier accepts.
CASES: tuple[tuple[str, Any, Mapping[str, Any], str], ...] = (
    ("math", r"\frac{3}{4}", {}, r"The answer is \boxed{\frac{3}{4}}."),
    ("math", "(1, 2]", {}, r"So \(x \in \boxed{(1, 2]}\)."),
    ("math", "1234", {"extract": "last"}, "1,234"),
    ("request", {"wanted": ["Hello, Ana!"], "others": ["Ben"], "count": 1,
                 "repeats": 1, "language": "en", "polite": ["Sure!"]}, {},
     "Sure! Hello, Ana!"),
    ("harm", {"harmful": True, "jailbreak": False, "refusals": ["I will not"],
              "advice": ["do it"]}, {}, "I will not."),
    ("choice", {"answer": "B", "options": {
        "A": "iron", "B": "gold", "C": "tin", "D": "lead"}}, {},
     "The answer is (B)."),
    ("exact", "yes", {}, "The answer is \\boxed{yes}."),
    ("set", ["red", "green"], {}, "\\boxed{green, red}"),
    ("drop", {"answers": [["5 May"], ["gold", "tin"]]}, {},
     "\\boxed{tin|gold}"),
    ("grid", {"1": {"Name": "Ann", "Pet": "cat"},
              "2": {"Name": "Bob", "Pet": "dog"}}, {},
     '{"1": {"Name": "Ann", "Pet": "cat"}, "2": {"Name": "Bob", "Pet": "dog"}}'
     ),
    ("literal", {"value": "[1, 'a']"}, {}, "[1, 'a']"),
    ("game24", {"numbers": [4, 7, 8, 8], "target": 24}, {},
     "(7 - 8 / 8) * 4 = 24"),
    ("puzzle", {"task": "chain_sum", "entry": {
        "question": "1 + 2 =", "answer": "3", "metadata": {}}}, {}, "3"),
    ("instructions", {"ids": ["punctuation:no_comma"], "kwargs": [{}]}, {},
     "No such sign in here."),
    ("code", {"kind": "stdin", "inputs": ["2\n"], "outputs": ["4\n"]}, {},
     _DOUBLE),
    ("code", {"kind": "function", "entry_point": "add",
              "cases": [[[1, 2], 3], [["a", "b"], "ab"]]}, {}, _ADD),
    ("bugfix", {"kind": "asserts", "entry_point": "add", "setup": "",
                "test": "def check(candidate):\n"
                        "  assert candidate(1, 2) == 3\n"}, {}, _ADD),
    ("program_input", {"program": "def f(x):\n  return x + 1\n",
                       "function": "f", "output": "3"}, {}, "f(2)"),
)
LONGEST = 400_000  # characters; 32,768 tokens of English are about 130,000
LANGUAGES = ("en", "zh", "ja", "th", "sr")

PIECES = (
    "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "\\boxed{}",
    "}", "{", "(", ")", "[", "]", "$", "$$", "\\(", "\\]", "```", "```python\n",
    "```json\n", "`", "\\frac{", "\\sqrt", "^{", "_", "9^{9^{9^{9}}}",
    "99999999!", "\\begin{pmatrix}", "\\cup", "\\infty", "\\text{", "%", ",",
    ";", "=", "!=", "\n", "\n\n", " ", "\t", "\0", "\ud800", "\u202e", "é",
    "字", "ー", "𝟛", "½", "Ⅳ", "１", "🎉", "A", "B", "(B)", "A, B, C and D",
    "NaN", "inf", "-0", "1e999", "0x1F", "1_000", "None", "True", "null",
    '{"a": [', '": "', "'", '"', "\\", "\\u0000", "&lt;", "<b>", "[[A>>B]]",
    "def f(x):\n  return x\n", "import os\nos._exit(0)\n", "while True: pass\n",
    "print('ALL TESTS PASSED')\n", "lambda: 0", "__import__('os')", "; ", "yes",
    "The answer is ", "therefore", "答案是", "Final answer:", "not ", "or ",
)


def prompt(case: int, language: str = "en") -> Prompt:
  """The question of one of `CASES`."""
  verifier, reference, metadata, _ = CASES[case]
  return Prompt(
      id=case, domain="test", source="fuzz", messages=ask("What is it?"),
      reference=reference, verifier=verifier, language=language,
      metadata={"max_characters": 1000, **metadata})


def completion(chance: random.Random) -> str:
  """A completion that was right and has been mutated, or a random one."""
  if chance.random() < 0.2:
    return "".join(chance.choice(PIECES) for _ in range(chance.randrange(40)))
  good = chance.choice(CASES)[3]
  text = f"<think> We think. 我们 </think> <answer> {good} </answer>"
  if chance.random() < 0.3:
    text = f"<think>\nWe think.\n</think>\n{good}"
  for _ in range(chance.choice((0, 1, 1, 2, 3, 5, 10))):
    text = _mutated(text, chance)
  return text[:LONGEST]


def _mutated(text: str, chance: random.Random) -> str:
  start, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
  piece = chance.choice(PIECES)
  match chance.randrange(9):
    case 0:
      return text[:start]
    case 1:
      return text[:start] + text[end:]
    case 2:
      return text + text[start:end]
    case 3:
      return text[end:] + text[:end]
    case 4:
      return text.replace(piece, chance.choice(PIECES))
    case 5:
      many = chance.choice((2, 10, 100, 1000, 10_000))
      return text[:start] + piece * many + text[start:]
    case 6:
      return text[:start] + chr(chance.choice((
          chance.randrange(0x80), chance.randrange(0x110000)))) + text[end:]
    case 7:
      return re.sub(r"\d", lambda _: str(chance.randrange(10**9)), text)
  return text[:start] + piece + text[end:]


def judged(name: str, score: Score) -> str | None:
  """The kind of fault of a verdict, as `rewards` counts them, or None."""
  low, high = RANGES.get(name, (0.0, 1.0))
  if not low <= score.value <= high:
    return "out_of_range"
  if score.reason == "deadline":
    return "deadlines"
  if score.valid:
    return None
  if re.match(r"\w*(?:Error|Exception|Exit|Interrupt)\b|crash|the rule",
              score.reason):
    return "exceptions"
  return "other_invalid"
