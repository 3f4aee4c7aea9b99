"""Expressions read without `eval`, as nested tuples.

The reader knows the mathematics of short answers; what it does not know, or
what TeX leaves open (`1/2x`, `2 3`), it refuses. `values` compares them.
"""

from __future__ import annotations

import fractions
import functools
import re

from r1jax.rewards.notation import CLOSE, FUNCTIONS, OPEN

Node = tuple  # (operation, operands...), numbers and names at the leaves

_TOKEN = re.compile(
    r"\s*(\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\.\d+"
    r"|(?<![A-Za-z])(?:" + "|".join(sorted(FUNCTIONS, key=len, reverse=True))
    + r"|sqrt|pi)(?![A-Za-z])|[A-Za-z]+|\S)")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa"
    " lambda mu nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta"
    " Lambda Sigma Phi Psi Omega ell".split())
_TIMES = frozenset(["\\times", "\\cdot", "*"])
_OVER = frozenset(["/", "\\div"])
_PAIRS = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lfloor": "\\rfloor",
          "\\lceil": "\\rceil"}
_GROUPS = {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}


class Unreadable(ValueError):
  """Not an expression that this reader knows, or too much work."""


class _Reader:
  """Recursive descent over the tokens of one expression."""

  def __init__(self, text: str):
    text = _GROUPED.sub(lambda m: m.group().replace(",", ""), text)
    self.tokens = _TOKEN.findall(text)
    self.at = 0
    self.bars = 0

  def peek(self) -> str:
    return self.tokens[self.at] if self.at < len(self.tokens) else ""

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
    node = self.product()
    while self.peek() in ("+", "-"):
      sign = self.next()
      node = (sign, node, self.product())
    return node

  def product(self) -> Node:
    negative = False
    while self.peek() in ("+", "-"):
      negative ^= self.next() == "-"
    node = self.power()
    slashed = False
    while True:
      token = self.peek()
      if token in _TIMES or token in _OVER:
        self.next()
        negative ^= self.peek() == "-" and bool(self.next())
        slashed = token in _OVER
        node = ("/" if slashed else "*", node, self.power())
      elif self._starts(token):
        digits = token[0].isdigit() and self.tokens[self.at - 1] not in CLOSE
        if slashed or digits:
          raise Unreadable("1/2x and 2 3 can be read in two ways")
        node = self._mixed(node) or ("*", node, self.power())
      else:
        return ("neg", node) if negative else node

  def _starts(self, token: str) -> bool:
    """Whether a factor starts here, the `times` left out."""
    if not token or token == "|" and self.bars:
      return False
    if token[0] == "\\":
      return (token in _PAIRS or token[1:] in _GREEK or token[1:] in FUNCTIONS
              or token in ("\\frac", "\\sqrt", "\\pi", "\\binom"))
    return token in ("(", "[", "{", "|") or token[0].isalnum()

  def _mixed(self, node: Node) -> Node | None:
    """`5\\frac{1}{2}`: the sum, not the product."""
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
        self.next()
        exponent = self.argument()
        if exponent == ("degrees",):
          node = ("degrees", node)
        elif self.peek() == "^":
          raise Unreadable("a^b^c")
        else:
          node = ("^", node, exponent)
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

  def argument(self) -> Node:
    """What a command or `^` applies to: a group, or one token."""
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
      return ("number", fractions.Fraction(token))
    if token in _PAIRS:
      return self._group(token)
    name = token.removeprefix("\\")
    if name in FUNCTIONS:
      return self._function(name)
    if name == "pi":
      return ("pi",)
    if name == "sqrt":
      return self._root()
    if token in ("\\frac", "\\binom"):
      first = self.argument()
      return ("/" if name == "frac" else name, first, self.argument())
    if token == "\\infty":
      return ("infinity",)
    if token[0] == "\\" and name in _GREEK:
      return self._name(name)
    if token.isascii() and token.isalpha():
      return self._letters(token)
    raise Unreadable(token)

  def _group(self, token: str) -> Node:
    self.bars += token == "|"
    node = self.sum()
    self.expect(_PAIRS[token])
    self.bars -= token == "|"
    return (_GROUPS[token], node) if token in _GROUPS else node

  def _letters(self, word: str) -> Node:
    """A run of letters is a product of variables, if it is no word."""
    if len(word) > 3:
      raise Unreadable(word)
    if word in ("f", "g", "h") and self.peek() == "(":
      raise Unreadable("a function that is not given")
    node = None
    for letter in word[:-1]:
      factor = self._constant(letter)
      node = factor if node is None else ("*", node, factor)
    last = self._name(word[-1])
    return last if node is None else ("*", node, last)

  def _constant(self, name: str) -> Node:
    return ("e",) if name == "e" else ("i",) if name == "i" else ("name", name)

  def _name(self, name: str) -> Node:
    if self.peek() == "'":
      raise Unreadable("a derivative")
    if self.peek() != "_":
      return self._constant(name)
    self.next()
    if self.peek() != "{":
      return ("name", f"{name}_{self.next()}")
    depth, index = 0, ""
    while True:
      token = self.next()
      depth += (token == "{") - (token == "}")
      if not token:
        raise Unreadable("an index does not end")
      if depth == 0:
        return ("name", f"{name}_{index}")
      index += token if token != "{" else ""

  def _root(self) -> Node:
    degree: Node = ("number", fractions.Fraction(2))
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
    if name in ("max", "min"):
      return self._extreme(name)
    if base is not None and name != "log":
      raise Unreadable(f"{name} with an index")
    node = self._operand()
    if exponent == ("neg", ("number", 1)) and f"arc{name}" in FUNCTIONS:
      return (f"arc{name}", node)
    node = (name, node) if base is None else ("log_base", node, base)
    return node if exponent is None else ("^", node, exponent)

  def _operand(self) -> Node:
    """`\\sin 2x` takes the product; `\\sin(x)y` only the bracket."""
    if self.peek() in ("(", "[", "{", "|"):
      return self.power()
    negative = self.peek() == "-" and bool(self.next())
    node = self.power()
    while self._starts(self.peek()) and (
        self.peek().removeprefix("\\") not in FUNCTIONS
        and self.peek() not in ("(", "[") and not self.peek()[0].isdigit()):
      node = ("*", node, self.power())
    if self.peek() == "/":
      raise Unreadable("sin x/2 can be read in two ways")
    return ("neg", node) if negative else node

  def _extreme(self, name: str) -> Node:
    opened = self.next()
    if opened not in OPEN:
      raise Unreadable(f"{name} without brackets")
    operands = [self.sum()]
    while self.peek() == ",":
      self.next()
      operands.append(self.sum())
    if self.next() not in CLOSE:
      raise Unreadable(f"{name} does not end")
    return (name, *operands)


@functools.lru_cache(maxsize=1024)
def read(text: str) -> Node | None:
  """The expression that plain `text` is, as nested tuples; None if unknown."""
  try:
    return _Reader(text).whole()
  except (Unreadable, RecursionError):
    return None


@functools.lru_cache(maxsize=1024)
def names(node: Node) -> frozenset[str]:
  """The variables of an expression."""
  if node[0] == "name":
    return frozenset([node[1]])
  return frozenset().union(
      *(names(n) for n in node[1:] if isinstance(n, tuple)))
