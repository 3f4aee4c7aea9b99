"""Changes right answers of mathematics a little and lists those still accepted.

A digit is dropped, a sign swapped, a function applied to a letter, a word, a
prime or an absolute value added. A reader must decide whether an accepted
mutant really equals the reference, so all of them are listed.
"""

from __future__ import annotations

import csv
import json
import pathlib
import random
import re
from collections.abc import Callable, Iterator

from r1jax.rewards.maths import answer

_WORDS = ("wrong", "sevenths", "below zero", "negative", "repeating", "times",
          "thousand", "or more", "squared", "倍", "半", "折", "万")


def golds(folder: pathlib.Path) -> list[str]:
  """The distinct references of GSM8K, CMATH and IMO-AnswerBench."""
  references: dict[str, None] = {}
  for path in sorted((folder / "gsm8k").glob("*.jsonl")):
    for line in path.read_text().splitlines():
      references[
          json.loads(line)["answer"].rpartition("####")[2].strip()] = None
  for path in sorted((folder / "cmath").glob("*.jsonl")):
    for line in path.read_text().splitlines():
      references[str(json.loads(line)["golden"])] = None
  for path in sorted((folder / "imo_answerbench").glob("*.csv")):
    with path.open(newline="") as file:
      for row in csv.DictReader(file):
        references[row["Short Answer"].strip()] = None
  return list(references)


def _at(text: str, pattern: str, change: Callable[[str], str],
        chance: random.Random) -> str:
  """Changes one random match of `pattern`."""
  places = list(re.finditer(pattern, text))
  if not places:
    return text
  match = chance.choice(places)
  return text[:match.start()] + change(match.group()) + text[match.end():]


def mutants(gold: str, chance: random.Random) -> Iterator[tuple[str, str]]:
  """(kind, mutant) pairs of a reference."""
  text = gold.strip().strip("$").strip()
  letter = r"(?<![A-Za-z\\])[a-zA-Z](?![A-Za-z])"
  yield "digit dropped", _at(text, r"\d", lambda _: "", chance)
  yield "digit changed", _at(
      text, r"\d", lambda d: str((int(d) + 1) % 10), chance)
  yield "digit doubled", _at(text, r"\d", lambda d: d + d, chance)
  yield "sign swapped", _at(
      text, r"[+-]", lambda s: "-" if s == "+" else "+", chance)
  yield "sign put before", f"-{text}"
  yield "function", _at(
      text, letter, lambda x: f"{chance.choice('fgPE')}({x})", chance)
  yield "letter changed", _at(
      text, letter, lambda x: "q" if x != "q" else "s", chance)
  yield "prime", _at(text, letter, lambda x: x + "'", chance)
  yield "prime behind", f"{text}'"
  yield "absolute", _at(text, letter, lambda x: f"|{x}|", chance)
  yield "word", f"{text} {chance.choice(_WORDS)}"
  yield "text", f"{text} \\text{{ {chance.choice(_WORDS)}}}"
  yield "not", f"\\ne {text}"
  yield "label", f"wrong={text}"
  yield "brackets", f"[{text}]"
  yield "factorial", f"{text}!"
  yield "power", f"({text})^2"
  yield "token dropped", _at(
      text, r"\\[A-Za-z]+|[^\s{}]", lambda _: "", chance)


def fuzz(folder: pathlib.Path, count: int, seed: int) -> dict[str, object]:
  """Judges at least `count` mutants; returns counts and the accepted ones."""
  chance = random.Random(seed)
  known = golds(folder)
  chance.shuffle(known)
  tried, rewarded = 0, []
  while tried < count:
    for gold in known:
      for kind, mutant in mutants(gold, chance):
        if mutant == gold.strip().strip("$").strip():
          continue
        tried += 1
        if answer.compare(mutant, gold) == "correct":
          rewarded.append(f"{kind}: {gold} <- {mutant}")
      if tried >= count:
        break
  return {"mutants": tried, "rewarded": len(set(rewarded)),
          "list": sorted(set(rewarded))}
