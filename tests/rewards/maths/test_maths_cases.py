"""Verdicts of mathematics, by kind: what must be paid and what must not.

Each line of maths_cases.jsonl is a reference, a completion and whether that is
right, found by thought. Beside them: no token of an answer may be dropped.
"""

from __future__ import annotations

import collections
import json
import pathlib

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response
from r1jax.rewards.maths import (
  answer,
  expressions,
  letters,
  notation,
  values,
)

CASES = collections.defaultdict(list)
for line in pathlib.Path(__file__).with_name(
    "maths_cases.jsonl").read_text().splitlines():
  CASES[json.loads(line)["kind"]].append(json.loads(line))


def judged(row):
  prompt = Prompt(
      id=1, domain="math", source="test",
      messages=ask(row.get("question", "?")), reference=row["gold"],
      verifier="math", metadata={"extract": "last"})
  return answer.verify(
      prompt, response.split("<think>", f"x</think>{row['completion']}"))


@pytest.mark.parametrize("kind", sorted(CASES))
def test_verdicts(kind):
  other = [(row["gold"], row["completion"], row["right"], judged(row).reason)
           for row in CASES[kind]
           if judged(row).value != float(row["right"])]
  assert not other


GOLDS = (
    r"f'(x)", r"2f(1)+3", r"F(b)-F(a)", r"\frac{dy}{dx}", r"\vec a\times\vec b",
    r"|x+2|-3", r"\lfloor\frac{n^2}{4}\rfloor", r"\sqrt{x^2+6x+9}",
    r"\frac{\sqrt{3}}{2}+\pi", r"\binom{n}{2}", r"\max(x,100)",
    r"x_1^2+2x_2-7", r"e^{2x}\sin 3x", r"\log_2 3+\ln 5", r"2^{n+1}-1",
    r"\sum_{k=1}^{5} k^2x", r"a^{2}b^{-1}", r"30^\circ15'", r"P(A)+P(B)",
    r"\bar{z}+2z", r"y''+4y", r"(x+1)(x-2)", r"[x]+1", r"5!+2")


@pytest.mark.parametrize("gold", GOLDS)
def test_no_token_is_dropped(gold):
  """The tokens are the whole text, and every one of them is read.

  Without any one of them the text means something else, or nothing.
  """
  plain = notation.plain(gold)
  functions = letters.applied(plain)
  found = expressions.tokens(plain)
  assert "".join(found).replace(" ", "") == plain.replace(" ", "")
  whole = expressions.read(plain, functions)
  assert whole is not None
  for at, token in enumerate(found):
    rest = found[:at] + found[at + 1:]
    left = expressions.read(" ".join(rest), functions)
    grouping = token in "{}()+" or token in ("\\times",)
    if left is not None and not (grouping and values.same(left, whole)):
      assert not values.same(left, whole), (gold, token)


@pytest.mark.parametrize("unknown", [
    "\\dagger", "\\partial", "\\nabla", "?", "'", "@", "\\text{ or so}", "~~",
    "\\ne", "。x", "\\oint", "\\star", "#", '"', "\\pmod{3}", "_", "&"])
def test_what_is_not_known_is_not_read(unknown):
  for gold in ("x+2", "5", r"\sqrt{3}x", "x=5"):
    for text in (f"{gold}{unknown}", f"{unknown}{gold}"):
      if notation.squeezed(notation.plain(text)) != gold:
        assert answer.compare(text, gold) != "correct", text
