"""Parses mathematical expressions into nested tuples, without `eval`.

The parser knows the mathematics of short answers. It refuses what it does not
know and what is ambiguous (`1/2x`, `2 3`); it never drops a token.

Whether a letter before brackets is a function or a factor is ambiguous too: the
argument `functions` says it, from how the reference uses the letter
(`letters.applied`). `values` compares expressions.
"""

from __future__ import annotations

import fractions
import functools
import re

from r1jax.rewards.maths.letters import GREEK
from r1jax.rewards.maths.notation import (
  CLOSE,
  END,
  FUNCTIONS,
  OPEN,
  SET,
  SET_END,
  WORDS,
)
from r1jax.rewards.maths.trees import Node

MAX_DEPTH = 40  # nesting of brackets and commands
_TOKEN = re.compile(
    rf"\s*({WORDS}[^{END}]*{END}|\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\.\d+"
    r"|(?<![A-Za-z])(?:" + "|".join(sorted(FUNCTIONS, key=len, reverse=True))
    + r"|sqrt|cbrt|pi)(?![A-Za-z])|[A-Za-z]+|\S)")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
_ACCENTS = frozenset(
    "vec bar overline hat tilde dot ddot mathbb mathcal mathfrak".split())
_TIMES = frozenset(["\\times", "\\cdot", "*"])
_OVER = frozenset(["/", "\\div"])
_PAIRS = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lfloor": "\\rfloor",
          "\\lceil": "\\rceil"}
_GROUPS = {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}
_CONSTANTS = {"e": ("e",), "i": ("i",), "pi": ("pi",)}
_INVERSE = re.compile(
    r"(?:[A-Z]|\([A-Z]{1,4}\))\s*\^\s*\{\s*-\s*1\s*\}")
_TWO = ("number", fractions.Fraction(2))


class Unreadable(ValueError):
  """Not an expression that the parser knows, or too expensive to evaluate."""


def tokens(text: str) -> list[str]:
  """The tokens of `text`; joined they are the text without its spaces."""
  return _TOKEN.findall(text)


class _Reader:
  """A recursive descent parser of one expression."""

  def __init__(self, text: str, functions: frozenset[str]):
    if "," in text:
      text = _GROUPED.sub(lambda m: m.group().replace(",", ""), text)
    self.tokens = tokens(text)
    self.functions = functions
    self.at = 0
    self.bars = 0
    self.deep = 0

  def peek(self, ahead: int = 0) -> str:
    at = self.at + ahead
    return self.tokens[at] if at < len(self.tokens) else ""

  def next(self) -> str:
    token = self.peek()
    self.at += 1
    return token

  def expect(self, token: str) -> None:
    if self.next() != token:
      raise Unreadable(f"no {token!r}")

  def whole(self) -> Node:
    node = self.sum()
    if self.peek():
      raise Unreadable(f"{self.peek()!r} left over")
    return node

  def sum(self) -> Node:
    self.deep += 1
    if self.deep > MAX_DEPTH:
      raise Unreadable("too deep")
    node = self.product()
    while self.peek() in ("+", "-"):
      sign = self.next()
      node = (sign, node, self.product())
    self.deep -= 1
    return node

  def product(self) -> Node:
    negative = False
    while self.peek() in ("+", "-"):
      negative ^= self.next() == "-"
    node = last = self.power()
    slashed = False
    while True:
      token = self.peek()
      if token in _TIMES or token in _OVER:
        self.next()
        negative ^= self.peek() == "-" and bool(self.next())
        slashed = token in _OVER
        last, before = self.power(), last
        if token in _TIMES and (_vector(last) and _vector(before)):
          node = self._vectors(token, node, before, last)
        else:
          node = ("/" if slashed else "*", node, last)
      elif self._starts(token):
        digits = (token[0].isdigit() and self.tokens[self.at - 1] not in CLOSE
                  and last[0] not in ("^", "i"))
        if slashed or digits:
          raise Unreadable("1/2x and 2 3 can be read in two ways")
        before = last
        mixed = self._mixed(node)
        if mixed is None:
          last = self.power()
          if _vector(last) and _vector(before):
            raise Unreadable("which product of vectors?")
        node = mixed or ("*", node, last)
      else:
        return ("neg", node) if negative else node

  def _vectors(self, token: str, node: Node, a: Node, b: Node) -> Node:
    """The dot or cross product of two vectors, which is no plain product."""
    if node is not a:
      raise Unreadable("a product before a product of vectors")
    return ("dot" if token != "\\times" else "cross", a, b)

  def _starts(self, token: str) -> bool:
    """Whether a factor without a multiplication sign starts here."""
    if not token or token == "|" and self.bars:
      return False
    if token[0] == "\\":
      name = token[1:]
      return (token in _PAIRS or name in GREEK or name in FUNCTIONS
              or name in _ACCENTS
              or name in ("frac", "sqrt", "pi", "binom", "sum", "prod"))
    return token in ("(", "[", "{", "|") or token[0].isalnum()

  def _mixed(self, node: Node) -> Node | None:
    """The mixed number `5\\frac{1}{2}`: a sum, not a product."""
    if node[0] != "number" or self.peek() != "\\frac":
      return None
    fraction = self.power()
    if fraction[0] != "/" or any(n[0] != "number" for n in fraction[1:]):
      return ("*", node, fraction)
    if not 0 < fraction[1][1] < fraction[2][1]:
      raise Unreadable("a mixed number needs a proper fraction")
    return ("+", node, fraction)

  def power(self) -> Node:
    node = self.atom()
    while True:
      token = self.peek()
      if token == "^":
        node = self._raised(node)
      elif token == "!":
        self.next()
        if self.peek() == "!":
          self.next()
          node = ("!!", node)
        else:
          node = ("!", node)
      elif token == "%":
        self.next()
        node = ("/", node, ("number", fractions.Fraction(100)))
      else:
        return node

  def _raised(self, node: Node) -> Node:
    self.next()
    if node[0] == "name" and self.peek() == "{" and self.peek(1) == "(" and (
        self.peek(2).isalnum() and self.peek(3) == ")"
        and self.peek(4) == "}"):
      raise Unreadable("x^{(n)} is a derivative or an index")
    if node[0] == "name" and self.peek().strip("{") in ("T", "\\top"):
      raise Unreadable("a transpose")
    exponent = self.argument()
    if exponent == ("degrees",):
      return self._degrees(node)
    if exponent in (("name", "T"), ("name", "\\top")):
      raise Unreadable("a transpose")
    if self.peek() == "^":
      raise Unreadable("a^b^c")
    return ("^", node, exponent)

  def _degrees(self, node: Node) -> Node:
    """Degrees, with minutes or seconds: `30^{\\circ}15'20''`."""
    for mark, parts in (("'", 60), ("''", 3600)):
      if not self.peek()[:1].isdigit() or self.peek(1) != "'":
        continue
      double = self.peek(2) == "'"
      if double != (mark == "''"):
        continue
      value = fractions.Fraction(self.next()) / parts
      self.at += 2 if double else 1
      node = ("+", node, ("number", value))
    return ("degrees", node)

  def argument(self) -> Node:
    """The argument of a command or of `^`: a group, or one token."""
    if self.peek() == "{":
      self.next()
      if self.peek() == "\\circ":
        self.next()
        self.expect("}")
        return ("degrees",)
      node = self.sum()
      self.expect("}")
      return node
    if self.peek() in ("-", "+"):
      negative = self.next() == "-"
      return ("neg", self.atom()) if negative else self.atom()
    return self.atom()

  def atom(self) -> Node:
    token = self.next()
    if not token:
      raise Unreadable("ends early")
    if token[0].isdigit() or token[0] == "." and len(token) > 1:
      if not token.isascii():
        raise Unreadable(token)
      return ("number", fractions.Fraction(
          int(token) if token.isdigit() else token))
    if token in _PAIRS:
      return self._group(token)
    name = token.removeprefix("\\")
    if name in FUNCTIONS:
      return self._function(name)
    if name in ("sqrt", "cbrt"):
      return self._root(name)
    if token in ("\\frac", "\\binom"):
      return self._fraction(name)
    if token in ("\\sum", "\\prod"):
      return self._repeated(name)
    if token == "\\infty":
      return ("infinity",)
    if name == "pi":
      return self._name("pi")
    if token[0] == "\\" and name in GREEK:
      return self._name(name)
    if token[0] == "\\" and name in _ACCENTS:
      return self._accented(name)
    if token.isascii() and token.isalpha():
      return self._letters(token)
    raise Unreadable(token)

  def _group(self, token: str) -> Node:
    start = self.at - 1
    self.bars += token == "|"
    node = self.sum()
    self.expect(_PAIRS[token])
    self.bars -= token == "|"
    if token == "[":
      return self._square(node, start)
    return (_GROUPS[token], node) if token in _GROUPS else node

  def _square(self, node: Node, start: int) -> Node:
    """Square brackets group if round ones are inside; else `[x]` is floor."""
    inner = "(" in self.tokens[start:self.at]
    if not inner:
      return ("floor", node)
    if start == 0 and self.at == len(self.tokens):
      raise Unreadable("brackets around the whole mean something")
    return node

  def _fraction(self, name: str) -> Node:
    start = self.at
    above = self.argument()
    middle = self.at
    below = self.argument()
    if name == "frac" and _differential(self.tokens[start:middle]) and (
        _differential(self.tokens[middle:self.at])):
      # A derivative dy/dx is one name, because d must not cancel.
      if self._starts(self.peek()):
        raise Unreadable("an operator before what it differentiates")
      return ("name", "".join(self.tokens[start:self.at]).replace(
          "{", "").replace("}", "/"))
    return ("/" if name == "frac" else name, above, below)

  def _repeated(self, name: str) -> Node:
    """`\\sum_{k=1}^{n} ...`, with the following product as its term."""
    self.expect("_")
    self.expect("{")
    index = self.next()
    self.expect("=")
    first = self.sum()
    self.expect("}")
    self.expect("^")
    last = self.argument()
    if not (index.isalpha() and len(index) == 1):
      raise Unreadable("an index that is no letter")
    return (name, ("name", index), first, last, self.product())

  def _accented(self, accent: str) -> Node:
    """`\\vec{a}`, a name of its own. A bar over two points is a segment."""
    braced = self.peek() == "{"
    if braced:
      self.next()
    token = self.next()
    name = token.removeprefix("\\")
    if not (name.isalpha() and name.isascii()) or (
        token[0] == "\\" and name not in GREEK) or len(name) > 9:
      raise Unreadable(f"an accent over {token!r}")
    if braced:
      self.expect("}")
    if accent == "overline" and token.isupper() and len(token) > 1:
      return self._letters(token)
    return self._name(f"{accent} {name}")

  def _letters(self, word: str) -> Node:
    """A run of letters: a product of variables, unless it is a word."""
    ends = word[-1] in self.functions and self.peek() in ("(", "[")
    if len(word) > 1 and word.isupper() and len(word) < 4 and not ends:
      # Segments, angles, products of events: one name, in any order.
      return self._name("".join(sorted(word)))
    if len(word) > 3 and len(set(word)) < len(word) or len(word) > 4:
      raise Unreadable(word)
    node = None
    for letter in word[:-1]:
      factor = _CONSTANTS.get(letter, ("name", letter))
      node = factor if node is None else ("*", node, factor)
    last = self._name(word[-1])
    return last if node is None else ("*", node, last)

  def _name(self, name: str) -> Node:
    full = name
    if self.peek() == "_":
      self.next()
      index = self._index()
      if name == "C" and self.peek() == "^" and re.fullmatch(
          r"\d+|[mn]", index):
        return self._choices(index)
      full = f"{name}_{index}"
    while self.peek() == "'":
      full += self.next()
    if name in self.functions and full[-1] != "'" and self.peek() == "^" and (
        self._applied_after_power()):
      full += self._order()  # f^{-1}(x), f^{(2)}(x)
    if name in self.functions and self.peek() in ("(", "["):
      return ("call", full, *self._arguments())
    return _CONSTANTS.get(full, ("name", full))

  def _choices(self, index: str) -> Node:
    """`C_n^k`: the binomial coefficient."""
    self.next()
    below = self.argument()
    above: Node = ("name", index)
    if index.isdigit():
      above = ("number", fractions.Fraction(index))
    if index.isdigit() and below[0] == "number" and below[1] >= above[1]:
      raise Unreadable("C_1^2: a binomial, or a square?")
    return ("binom", above, below)

  def _applied_after_power(self) -> bool:
    at, depth = self.at + 1, 0
    while at < len(self.tokens):
      depth += (self.tokens[at] == "{") - (self.tokens[at] == "}")
      at += 1
      if not depth:
        break
    return at < len(self.tokens) and self.tokens[at] == "("

  def _order(self) -> str:
    self.next()
    order = self._index()
    if re.fullmatch(r"\([1-4]\)", order):
      return "'" * int(order[1])
    return f"^{order}"

  def _index(self) -> str:
    if self.peek() != "{":
      return self.next()
    depth, index = 0, ""
    while True:
      token = self.next()
      depth += (token == "{") - (token == "}")
      if not token:
        raise Unreadable("an index does not end")
      if depth == 0:
        return index
      index += token if token != "{" else ""

  def _arguments(self) -> list[Node]:
    closing = _PAIRS[self.next()]
    operands = [self.sum()]
    while self.peek() == ",":
      self.next()
      operands.append(self.sum())
    self.expect(closing)
    return operands

  def _root(self, name: str) -> Node:
    degree: Node = _TWO if name == "sqrt" else (
        "number", fractions.Fraction(3))
    if self.peek() == "[":
      self.next()
      degree = self.sum()
      self.expect("]")
    return ("root", self.argument(), degree)

  def _function(self, name: str) -> Node:
    exponent = base = None
    while self.peek() in ("^", "_"):
      if self.next() == "^":
        exponent = self.argument()
      else:
        base = self.argument()
    if name in ("max", "min", "gcd", "lcm"):
      if base is not None or exponent is not None:
        raise Unreadable(f"{name} with an index")
      return self._extreme(name)
    if base is not None and name != "log":
      raise Unreadable(f"{name} with an index")
    node = self._operand()
    if exponent == ("neg", ("number", 1)):
      if f"arc{name}" in FUNCTIONS:
        return (f"arc{name}", node)
      raise Unreadable(f"{name}^-1")
    node = (name, node) if base is None else ("log_base", node, base)
    return node if exponent is None else ("^", node, exponent)

  def _operand(self) -> Node:
    """A function's operand: the product in `\\sin 2x`, (x) in `\\sin(x)y`."""
    if self.peek() in ("(", "[", "{", "|"):
      if self.peek() == "[":
        self.next()
        node = self.sum()
        self.expect("]")
        return node
      return self.power()
    if self.peek() == SET:
      self.next()
      node = self.sum()
      self.expect(SET_END)
      return node
    negative = self.peek() == "-" and bool(self.next())
    node = self.power()
    while self._starts(self.peek()) and (
        self.peek().removeprefix("\\") not in FUNCTIONS
        and self.peek() not in ("(", "[") and not self.peek()[0].isdigit()):
      node = ("*", node, self.power())
    if self.peek() == "/" and self.peek(1).removeprefix("\\") not in FUNCTIONS:
      raise Unreadable("sin x/2 can be read in two ways")
    return ("neg", node) if negative else node

  def _extreme(self, name: str) -> Node:
    opened = self.next()
    if opened not in OPEN or not opened:
      raise Unreadable(f"{name} without brackets")
    operands = [self.sum()]
    while self.peek() == ",":
      self.next()
      operands.append(self.sum())
    if self.next() != CLOSE[OPEN.index(opened)]:
      raise Unreadable(f"{name} does not end")
    return (name, *operands)


def _vector(node: Node) -> bool:
  return node[0] == "name" and node[1].startswith("vec ")


def _differential(symbols: list[str]) -> bool:
  """Whether tokens are a differential: `d`, `dy`, `d^2 y`, `d x`."""
  inside = [t for t in symbols if t not in "{}"]
  return bool(inside) and inside[0][0] == "d" and (
      len(inside) > 1 or len(inside[0]) > 1 or inside[0] == "d") and (
          all(t.isalnum() or t in "^_" or t[0] == "\\" for t in inside))


@functools.lru_cache(maxsize=2048)
def read(text: str, functions: frozenset[str] = frozenset()) -> Node | None:
  """The expression `text` as nested tuples; None if it is not parsed.

  Args:
    text: as `notation.plain` returns it.
    functions: letters that are functions before brackets.
  """
  if len(text) > 2000 or _ordered(text):
    return None
  try:
    return _Reader(text, functions).whole()
  except (Unreadable, RecursionError, IndexError):
    return None


def _ordered(text: str) -> bool:
  """Whether capitals are matrices, whose products have an order: `A^{-1}BA`."""
  return _INVERSE.search(text) is not None and (
      len(set(re.findall(r"(?<![\\A-Za-z])[A-Z]+", text))
          | set("".join(re.findall(r"[A-Z]{2,}", text)))) > 1)
