"""Which letters are functions: those that only occur before brackets."""

from __future__ import annotations

import functools
import re

from r1jax.rewards.maths.notation import END, FUNCTIONS, WORDS

GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa"
    " lambda mu nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta"
    " Lambda Sigma Phi Psi Omega ell".split())
_NAME = re.compile(
    r"(\\[A-Za-z]+|[A-Za-z])(?:\s*_\s*(?:\w|\{[^{}]*\}))?\s*('*)"
    r"(?:\s*\^\s*(?:\{[^{}]*\}|\w))?\s*([(\[])?")
_WORD = re.compile(
    rf"{WORDS}[^{END}]*{END}|\\(?:" + "|".join(FUNCTIONS)
    + r")(?![A-Za-z])|(?<![A-Za-z\\])(?:" + "|".join(FUNCTIONS)
    + r"|sqrt|cbrt)(?![A-Za-z])")
_COUNTED = re.compile(r"\s*\(\s*(?:\d+|[a-z])\s*\)|\s*$")


@functools.lru_cache(maxsize=1024)
def applied(text: str, context: str = "") -> frozenset[str]:
  """Letters that are functions in `text`: they occur only before brackets.

  A letter that occurs in `context` (the question's formulas), but never before
  brackets, is a factor in `text` too.
  """
  before, bare = _uses(text)
  if context and before - bare:
    there, bare_there = _uses(context)
    bare |= bare_there - there
  return frozenset(before - bare)


def _uses(text: str) -> tuple[set[str], set[str]]:
  before, bare = set(), set()
  text = _WORD.sub(" ", text)
  for match in _NAME.finditer(text):
    name = match.group(1).removeprefix("\\")
    if match.group(1)[0] == "\\" and name not in GREEK and name != "pi":
      continue
    if name in ("e", "i"):
      continue
    opens = match.group(3) is not None
    if name == "pi":  # pi(n) is the prime-counting function
      opens = opens and _COUNTED.match(text, match.end() - 1) is not None
    (before if opens else bare).add(name)
  return before, bare
