"""One notation for mathematics: TeX, Unicode and full-width forms unified.

`plain` is the first step of every comparison. In what it returns, words that
stood in `\\text{...}` lie between `WORDS` and `END`, a currency dollar is
`DOLLAR` and the braces of sets are single characters, so that brackets can be
counted character by character.
"""

from __future__ import annotations

import re

WORDS, END, DOLLAR, SET, SET_END = "\ue000\ue001\ue002\ue003\ue004"
OPEN, CLOSE = "([{" + SET, ")]}" + SET_END
FUNCTIONS = frozenset(
    "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc log ln lg exp"
    " max min".split())

_UNICODE = {
    "−": "-", "–": "-", "﹣": "-", "×": "\\times ", "÷": "\\div ",
    "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "≤": "\\le ",
    "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ", "∞": "\\infty ",
    "π": "\\pi ", "√": "\\sqrt ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ",
    "±": "\\pm ", "∓": "\\mp ", "°": "^{\\circ}", "℃": "^{\\circ}C",
    "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
    "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "²": "^{2}", "³": "^{3}",
    "⁴": "^{4}", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}",
    "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "θ": "\\theta ",
    "λ": "\\lambda ", "φ": "\\varphi ", "ω": "\\omega ", "。": ".",
    "、": ",", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ",
    "“": '"', "”": '"', "’": "'", "￥": "¥", WORDS: "", END: "", DOLLAR: "",
    SET: "", SET_END: "",
}
_CHARACTERS = str.maketrans(
    {chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)} | _UNICODE)
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ |\\;)(?=\d{3}(?!\d))")
_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]")
_SPACE = re.compile(r"(?<!\\)\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~")
_NOTHING = re.compile(
    r"(?<!\\)\\(?:!|(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle"
    r"|limits|nolimits)(?![A-Za-z]))")
_TEXT = re.compile(
    r"\\(text|textbf|textit|textrm|textnormal|mathrm|mbox|operatorname"
    r"|unit|rm)\s*\{([^{}]*)\}")
_FONT = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf)\s*\{([^{}]*)\}")
_COMMANDS = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne",
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom",
    "tbinom": "binom", "varnothing": "emptyset", "infin": "infty",
    "R": "mathbb{R}", "ast": "times", "degree": "circ", "lor": "or",
}
_SYMBOLS = {
    "lt": "<", "gt": ">", "lbrace": "\\{", "rbrace": "\\}", "lvert": "|",
    "rvert": "|", "vert": "|", "lbrack": "[", "rbrack": "]", "lparen": "(",
    "rparen": ")",
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SMALL_FRAC = re.compile(r"\\frac\s*(\d)(?=\s*[\d{])")
_HALF_FRAC = re.compile(r"(\\frac\s*\{[^{}]{0,40}\})\s*(\d)")
_WORD_FRAC = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_CIRC = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_BASE = re.compile(r"(?<=\d)\s*_\s*\{\s*(\d+)\s*\}")
_BLANKS = re.compile(r"\s+")
_GAP = re.compile(r"(?<!\d)\s+|\s+(?!\d)")


def plain(text: str) -> str:
  """`text` in one notation; spaces single, delimiters and fonts removed."""
  text = text.translate(_CHARACTERS)
  text = _THOUSANDS.sub(",", text).replace("\\%", "%")
  text = text.replace("\\$", DOLLAR)
  if text.count("$") % 2:  # no pair of delimiters: money
    text = text.replace("$", DOLLAR, 1)
  text = _DELIMITER.sub(" ", text.replace("$", " "))
  text = _NOTHING.sub("", _SPACE.sub(" ", text))
  text = _COMMAND.sub(_command, text)
  text = _FONT.sub(r"\1", _TEXT.sub(_words, text))
  text = _BASE.sub(r"_\1", text)
  text = _CIRC.sub("^{\\\\circ}", text)
  text = text.replace("\\{", SET).replace("\\}", SET_END).replace("**", "^")
  if "\\frac" in text:
    text = _HALF_FRAC.sub(r"\1{\2}", _SMALL_FRAC.sub(r"\\frac{\1}", text))
    text = _WORD_FRAC.sub(_trimmed_frac, text)
  text = _BLANKS.sub(" ", text).strip()
  text = text.rstrip(".,;:? ") if not text.endswith("..") else text
  text = text.removeprefix("=").strip()
  while text.startswith("{") and closing(text) == len(text) - 1:
    text = text[1:-1].strip()
  return text


def squeezed(text: str) -> str:
  """`plain` text without marks and blanks, but `3 4` stays two numbers."""
  text = text.replace(WORDS, "").replace(END, "").replace("\\ ", "")
  return _GAP.sub("", text.strip()).replace(DOLLAR, "")


def closing(text: str, start: int = 0) -> int:
  """Where the bracket that opens at `start` closes; -1 if it does not.

  Kinds of brackets are not told apart: `[1,2)` closes.
  """
  depth = 0
  for at in range(start, len(text)):
    character = text[at]
    depth += (character in OPEN) - (character in CLOSE)
    if depth == 0:
      return at
  return -1


def _command(match: re.Match[str]) -> str:
  name = match.group(1)
  if name in _SYMBOLS:
    return _SYMBOLS[name]
  return "\\" + _COMMANDS[name] if name in _COMMANDS else match.group()


def _words(match: re.Match[str]) -> str:
  """Text is marked, unless it is mathematics set upright."""
  content = match.group(2)
  word = content.strip()
  if word in FUNCTIONS:
    return f"\\{word} "
  if match.group(1) in ("mathrm", "operatorname") and word in ("e", "i", "d"):
    return word
  if not any(c.isalpha() for c in word):
    return content
  return f"{WORDS}{content}{END}"


def _trimmed_frac(match: re.Match[str]) -> str:
  return f"\\frac{{{match.group(1).strip()}}}{{{match.group(2).strip()}}}"
