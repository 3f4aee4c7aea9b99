"""Equations as answers: `x = 5`, `m+n = 256+37 = 293`, `|AB| = 1`.

The left side names the quantity. It may be left out if it is a name, but not if
it is a condition (`x^2 = 4` is not 4, and `wrong=5` is not 5).
"""

from __future__ import annotations

import fractions
import re
from typing import NamedTuple

from r1jax.rewards.maths import expressions, values
from r1jax.rewards.maths.notation import END, WORDS, depths, squeezed
from r1jax.rewards.maths.trees import Node, names, renamed

_EQUALS = re.compile(r"=|\\(?:approx|equiv|sim)(?![A-Za-z])")
_OTHER = re.compile(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])")
_MAPS = re.compile(
    r"\s*([A-Za-z])\s*:\s*([A-Za-z])\s*\\(?:mapsto|to)(?![A-Za-z])(.*)",
    re.DOTALL)
_IN = re.compile(
    r"(\s*(?:\\?[A-Za-z]+(?:_\w)?|\([A-Za-z,\s]*\)))\s*\\in(?![A-Za-z])")
_GEOMETRY = re.compile(
    r"\\(?:overline|overrightarrow|vec|triangle|angle|widehat|hat|bar|operato"
    r"rname|left|right|square|odot|text|mathrm)(?![A-Za-z])|[{}\s" + WORDS
    + END + "]")
_LENGTH = re.compile(r"\|((?:\\[a-z]+\s*\{?)?\s*[A-Z]{1,3}\s*\}?)\|")
_NAME = re.compile(
    r"m?(?:\\?[A-Za-z](?:[A-Z]{0,3})|\\[A-Za-z]+)'*"
    r"(?:_(?:\\?\w+|\{[^{}]{1,20}\}))?'*(?:\^\{?(?:-1|\*)\}?)?")
_CALL = re.compile(
    r"(\\?[A-Za-z]+(?:_\w|_\{\w+\})?'*)(?:\^\{?-1\}?)?[(\[]([^()\[\]]{1,40})[)"
    r"\]]")
_TUPLE = re.compile(r"\(\\?[A-Za-z]\w?(?:_\w)?(?:,\\?[A-Za-z](?:_\w)?)+\)")
_KNOWN = frozenset(
    "answer ans result total area sum volume perimeter length probability"
    " value cost distance speed time number max min maximum minimum average"
    " mean slope radius product difference ratio height width age price"
    " \\max \\min".split())
_RUN = re.compile(r"(?<![A-Za-z\\_{])[a-z]{2,}")
_CIRCLES = frozenset("sin cos tan cot sec csc".split())


class Settled(NamedTuple):
  """A chain of equations: its left side or "", its final value, whether ≈."""

  label: str
  value: str
  approximate: bool = False


def settled(text: str, functions: frozenset[str]) -> Settled | None:
  """The label and value of a chain of equations; None if it is false.

  A middle side without variables must have the value of the last side:
  `m+n = 256+37 = 293`. `\\approx 4.43` may follow an exact value; it must be
  that value, rounded.
  """
  if match := _MAPS.fullmatch(text):
    name, argument, value = match.groups()
    return Settled(f"{name}({argument})", value.strip())
  if match := _IN.match(text):
    return Settled(squeezed(match.group(1)), text[match.end():].strip())
  if _OTHER.search(text) or not _EQUALS.search(text):
    return Settled("", text)
  sides, signs = _sides(text)
  if not sides[-1] or not signs:
    return Settled("", text)
  if not sides[0]:  # "= 5", "\\approx 5"
    sides, signs = sides[1:], signs[1:]
    if not signs:
      return Settled("", sides[0])
  if not all(sides):
    return None
  label, last = sides[0], sides[-1]
  if len(signs) == 1 and signs[0] != "=" and _constant(label, functions):
    # An exact value and its decimal approximation.
    if not rounded(label, last, functions):
      return None
    return Settled("", label)
  if signs[-1] == "\\approx" and len(sides) > 2:
    if rounded(sides[-2], last, functions) is False:
      return None
    if _constant(sides[-2], functions):
      sides, last = sides[:-1], sides[-2]
  if not all(_agrees(side, last, functions) for side in sides[1:-1]):
    return None
  return Settled(label, last, signs[0] != "=")


def _sides(text: str) -> tuple[list[str], list[str]]:
  sides, signs, start = [], [], 0
  deep = depths(text)
  for match in _EQUALS.finditer(text):
    if not deep[match.start()]:
      sides.append(text[start:match.start()].strip())
      signs.append("=" if match.group() == "\\equiv" else (
          "=" if match.group() == "=" else "\\approx"))
      start = match.end()
  return [*sides, text[start:].strip()], signs


def _constant(text: str, functions: frozenset[str]) -> bool:
  node = expressions.read(text, functions)
  return node is not None and not names(node)


def rounded(exact: str, shown: str, functions: frozenset[str]) -> bool | None:
  """Whether `shown` is the constant `exact`, rounded; None if not decidable."""
  node = expressions.read(exact, functions)
  value = None if node is None else values.constant(node)
  match = re.fullmatch(r"([+-]?\d+)(?:\.(\d+))?", shown.strip())
  if value is None or not match:
    return None
  return values.rounds(value, fractions.Fraction(match.group()),
                       len(match.group(2) or ""))


def _agrees(side: str, last: str, functions: frozenset[str]) -> bool:
  if squeezed(side) == squeezed(last):
    return True
  a, b = (expressions.read(s.replace("^{\\circ}", ""), functions)
          for s in (side, last))
  if a is None or b is None:
    return is_name(side)
  if names(a) and not names(b):
    return True
  return values.same(a, b)


def is_name(label: str) -> bool:
  """Whether a left side only names the answer: `x`, `f(2)`, `|AB|`, `S_{n}`."""
  short = bare(label)
  if not short or len(short) > 60:
    return False
  if short.casefold() in _KNOWN:
    return True
  if re.search(r"[A-Za-z]{4,}", re.sub(r"\\[A-Za-z]+|_\w+", "", short)):
    return False
  return any(p.fullmatch(short) for p in (_NAME, _CALL, _TUPLE)) and (
      short.lstrip("\\") not in ("ne", "le", "ge", "neg", "lnot", "in"))


def names_answer(label: str, question: str, nouns: frozenset[str],
                 functions: frozenset[str]) -> bool:
  """Whether an answer's left side only names the quantity.

  It does if it is a name, a sum or ratio of several names (`m+n`, AB/CD), a
  trigonometric function of a name, or text from the question. A condition on
  one name does not: `2x = 6`.
  """
  if is_name(label):
    return True
  words = label.replace(WORDS, " ").replace(END, " ").split()
  if words and all(w.casefold() in _KNOWN or w.casefold() in nouns
                   for w in words):
    return True
  short = squeezed(label)
  if any(c.isalpha() for c in short) and len(short) > 1 and (
      short in question):
    return True
  if any(not _is_product(run) for run in _RUN.findall(short)):
    return False
  if ":" in label:
    return all(is_name(part) for part in label.split(":"))
  node = expressions.read(_unmarked(label), functions)
  return node is not None and (
      len(names(node)) > 1 or node[0] in _CIRCLES and node[1][0] == "name")


def names_quantity(label: str, functions: frozenset[str]) -> bool:
  """Whether a reference's left side may be missing in an answer.

  `\\alpha+\\beta = 3` is the quantity 3, but `x+y = 3` and `x^2 = 3` are
  equations.
  """
  if is_name(label):
    return True
  if ":" in label:
    return all(is_name(part) for part in label.split(":"))
  node = expressions.read(_unmarked(label), functions)
  if node is None:
    return False
  if node[0] in _CIRCLES and node[1][0] == "name":
    return True
  if node[0] == "/" and all(n[0] == "name" and n[1].isupper()
                            for n in node[1:]):
    return True
  return _summed(node) and not names(node) & {"x", "y", "z"}


def _summed(node: Node) -> bool:
  return node[0] == "name" or node[0] in ("+", "-") and all(
      map(_summed, node[1:]))


def _is_product(run: str) -> bool:
  return list(run) == sorted(run) and not set(run) & set("eiolu") or (
      run in ("sin", "cos", "tan", "log", "ln", "lg", "max", "min", "frac",
              "sqrt"))


def _unmarked(label: str) -> str:
  return re.sub(r"\\(?:triangle|angle|overline)(?![A-Za-z])", "", label)


def bare(label: str) -> str:
  """A name without the marks of segments, angles and triangles."""
  label = _LENGTH.fullmatch(label.strip()) or label
  label = label if isinstance(label, str) else label.group(1)
  return _GEOMETRY.sub("", re.sub(r"\\(?=max|min)", "", label))


def same_label(a: str, b: str, functions: frozenset[str]) -> bool:
  """Whether two left sides name the same quantity."""
  x, y = bare(a), bare(b)
  if x == y or x.isupper() and y.isupper() and x == y[::-1]:
    return True
  m, n = expressions.read(a, functions), expressions.read(b, functions)
  return m is not None and n is not None and values.same(m, n)


def one_argument(a: Settled, b: Settled, functions: frozenset[str],
                 ) -> tuple[Node, Node] | None:
  """The right sides of `f(z) = ...` and `f(x) = ...` in the same variable.

  `y = ...` counts as `f(x) = ...`. None if they do not define the same
  function.
  """
  calls = [_CALL.fullmatch(squeezed(s.label)) for s in (a, b)]
  nodes = [expressions.read(s.value, functions) for s in (a, b)]
  if None in nodes:
    return None
  if all(calls):
    if calls[0].group(1) != calls[1].group(1):
      return None
    arguments = [call.group(2) for call in calls]
    if not all(len(argument) == 1 and argument.isalpha()
               for argument in arguments):
      return None
    old, new = arguments
    if old != new and new in names(nodes[0]):
      return None
    return renamed(nodes[0], old, new), nodes[1]
  call = calls[0] or calls[1]
  other = (b if calls[0] else a).label.strip()
  if call and other in ("y", call.group(1)) and len(call.group(2)) == 1:
    return nodes[0], nodes[1]
  return None
