"""Normalises the notation of mathematics: TeX, Unicode and full-width forms.

`plain` is the first step of every comparison. In its result, words from
`\\text{...}` are between `WORDS` and `END`, a currency dollar is `DOLLAR`, a
wide space `GAP`, and the braces of sets are the single characters `SET` and
`SET_END`, so that brackets can be counted character by character. Only fonts,
colours, sizes and spaces are removed.
"""

from __future__ import annotations

import fractions
import functools
import re

WORDS, END, DOLLAR, SET, SET_END, GAP = (
    "\ue000\ue001\ue002\ue003\ue004\ue005")
OPEN, CLOSE = "([{⟨" + SET, ")]}⟩" + SET_END
FUNCTIONS = frozenset(
    "arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch"
    " arcsinh arccosh arctanh sin cos tan cot sec csc log ln lg exp max min"
    " gcd lcm cis sgn".split())

_UNICODE = {
    "−": "-", "–": "-", "﹣": "-", "×": "\\times ", "÷": "\\div ",
    "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "≤": "\\le ",
    "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ", "∞": "\\infty ",
    "π": "\\pi ", "√": "\\sqrt ", "∛": "\\sqrt[3]", "∪": "\\cup ",
    "∩": "\\cap ", "∈": "\\in ", "±": "\\pm ", "∓": "\\mp ",
    "°": "^{\\circ}", "º": "^{\\circ}", "˚": "^{\\circ}",
    "℃": "^{\\circ}C", "℉": "^{\\circ}F", "½": "\\frac{1}{2}",
    "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "⅓": "\\frac{1}{3}",
    "⅔": "\\frac{2}{3}", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}",
    "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ",
    "θ": "\\theta ", "λ": "\\lambda ", "μ": "\\mu ", "µ": "\\mu ",
    "σ": "\\sigma ", "φ": "\\varphi ", "ψ": "\\psi ", "ω": "\\omega ",
    "Ω": "\\Omega ", "\u2126": "\\Omega ", "ρ": "\\rho ", "τ": "\\tau ",
    "∠": "\\angle ", "△": "\\triangle ", "∣": "|", "∶": ":", "≈": "\\approx ",
    "≡": "\\equiv ", "→": "\\to ", "⌊": "\\lfloor ", "⌋": "\\rfloor ",
    "⌈": "\\lceil ", "⌉": "\\rceil ", "∀": "\\forall ", "∨": "\\lor ",
    "∧": "\\land ", "∖": "\\setminus ", "′": "'", "″": "''", "‴": "'''",
    "…": "\\ldots ", "。": ".", "、": ",", "\u00a0": " ", "\u2009": " ",
    "\u202f": " ", "\u3000": " ", "\u200b": "", "“": '"', "”": '"',
    "’": "'", "‘": "'", "￥": "¥", WORDS: "", END: "", DOLLAR: "",
    SET: "", SET_END: "", GAP: "",
}
_CHARACTERS = str.maketrans(
    {chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)} | _UNICODE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_THOUSANDS = re.compile(
    r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ |\\;)\s*(?=\d{3}(?!\d))")
_EMPHASIS = re.compile(r"\s*(\*\*|__|`)(.+)\1\s*", re.DOTALL)
_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]")
_WIDE = re.compile(r"(?<!\\)\\q?quad(?![A-Za-z])")
_SPACE = re.compile(
    r"(?<!\\)\\(?:[,;:> ]|[hv]space\*?\s*\{[^{}]*\})|~")
_NOTHING = re.compile(
    r"(?<!\\)\\(?:!|(?:left|right|middle|[bB]igg?[lrm]?|displaystyle"
    r"|textstyle|limits|nolimits|tiny|small|normalsize|large|Large|LARGE"
    r"|huge|Huge|bf|it|sf|tt|boldmath)(?![A-Za-z]))")
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[A-Za-z]*\}")
_TEXT = re.compile(
    r"\\(text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mbox|hbox"
    r"|operatorname\*?|unit|rm)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_BLACKBOARD = re.compile(r"\\mathbb\s*([A-Z])(?![A-Za-z])")
_ROMAN = re.compile(r"\{\s*\\rm\s+([^{}]*)\}")
_FONT = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|mathtt|mathcal|framebox|fbox"
    r"|underline|mathnormal)\s*\{([^{}]*)\}")
_JOINED = re.compile(
    rf"{END}\s*(\^\s*(?:\{{[^{{}}]*\}}|\d))?\s*(/|-|\\cdot|\\times)?\s*"
    rf"(\d?)\s*{WORDS}")
_COMMANDS = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne",
    "leqq": "le", "geqq": "ge", "dfrac": "frac", "tfrac": "frac",
    "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "varnothing": "emptyset", "infin": "infty", "R": "mathbb{R}",
    "Z": "mathbb{Z}", "N": "mathbb{N}", "Q": "mathbb{Q}", "ast": "times",
    "lor": "or", "vee": "or", "land": "and", "wedge": "and",
    "backslash": "setminus", "tg": "tan", "ctg": "cot", "arctg": "arctan",
    "arcctg": "arccot", "dots": "ldots", "cdots": "ldots",
    "longmapsto": "mapsto", "rightarrow": "to", "simeq": "approx",
    "doteq": "approx", "thickapprox": "approx", "overrightarrow": "vec",
    "widehat": "hat", "widetilde": "tilde",
}
_SYMBOLS = {
    "lt": "<", "gt": ">", "lbrace": "\\{", "rbrace": "\\}", "lvert": "|",
    "rvert": "|", "vert": "|", "mid": "|", "lVert": "|", "rVert": "|",
    "Vert": "|", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "colon": ":", "prime": "'", "percnt": "%", "dollar": "\\$",
    "langle": "⟨", "rangle": "⟩",
}
_ANGLES = re.compile(r"\A\s*<([^<>=]*,[^<>=]*)>\s*\Z")
_RANK = re.compile(
    rf"(?<=\d)\s*\^\s*\{{?\s*{WORDS}?\s*(?:st|nd|rd|th)\s*{END}?\s*\}}?"
    r"(?![A-Za-z])")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_ALIASES = {"tg": "tan", "ctg": "cot", "arctg": "arctan",
            "arcctg": "arccot", "sign": "sgn", "arsinh": "arcsinh",
            "arcosh": "arccosh", "artanh": "arctanh"}
_SMALL_FRAC = re.compile(r"\\frac\s*(\d|[A-Za-z](?![A-Za-z]))(?=\s*[\w{\\])")
_HALF_FRAC = re.compile(
    r"(\\frac\s*\{[^{}]{0,40}\})\s*(\d|[A-Za-z](?![A-Za-z])|\\[a-z]+)")
_WORD_FRAC = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_CIRC = re.compile(
    r"\^\s*(?:\{\s*\^?\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)"
    r"(?![A-Za-z]))|\\degree(?![A-Za-z])"
    rf"|(?<=\d)\s*\^\s*(?:\{{\s*o\s*\}}|o(?![A-Za-z])"
    rf"|\{{?\s*{WORDS}\s*o\s*{END}\s*\}}?)")
_PRIMES = re.compile(r"\^\s*(?:\{\s*('(?:\s*')*)\s*\}|('))")
_BASE = re.compile(r"(?<=\d)\s*_\s*\{\s*(\d+)\s*\}")
_RELATIONS = re.compile(r"<=|=<|>=|==|(?<=\s)!=|\\not\s*=")
_RELATION = {"<=": "\\le ", "=<": "\\le ", ">=": "\\ge ", "==": "=",
             "!=": "\\ne "}
_PERIOD = re.compile(
    r"(\d+)?\.(\d*)\s*(?:\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))"
    r"(?:(\d*)\\dot\s*(?:\{\s*(\d)\s*\}|(\d)))?|\((\d+)\)(?!\s*[\w(^]))")
_DOTTED = re.compile(
    r"(?<![\d.])(\d+)?\.(\d{0,6}?)(\d{1,6}?)\3{1,12}\s*(?:\\ldots|\.\.\.)")
_BETWEEN = re.compile(r"(?<!\d)\s+|\s+(?!\d)")


@functools.lru_cache(maxsize=1024)
def plain(text: str) -> str:
  """`text` in normalised notation, with single spaces; see above."""
  if match := _EMPHASIS.fullmatch(text):
    text = match.group(2)
  if not text.isascii():
    text = _RAISED.sub(
        lambda m: f"^{{{m.group().translate(_SUPERSCRIPTS)}}}", text)
    text = _LOWERED.sub(
        lambda m: f"_{{{m.group().translate(_SUBSCRIPTS)}}}", text)
    text = text.translate(_CHARACTERS)
  if "\\" in text or "{" in text:
    text = _THOUSANDS.sub(",", text).replace("\\%", "%")
    text = text.replace("\\$", DOLLAR).replace("\\|", "|")
  if text.count("$") % 2:  # not a pair of delimiters, so it is money
    text = text.replace("$", DOLLAR, 1)
  text = text.replace("$", " ")
  if "\\" in text:
    text = _tex(text)
  if "'" in text:
    text = _PRIMES.sub(_primes, text)
  if "=" in text:
    text = _RELATIONS.sub(
        lambda m: _RELATION.get(m.group(), "\\ne "), text)
  if "_" in text:
    text = _BASE.sub(r"_\1", text)
  if "^" in text or "\\degree" in text:
    text = _RANK.sub("th", _CIRC.sub("^{\\\\circ}", text))
  if "<" in text:
    text = _ANGLES.sub(r"⟨\1⟩", text)
  text = text.replace("{:}", ":").replace("**", "^")
  text = " ".join(text.split())
  if "." in text:
    text = _DOTTED.sub(_repeated, _PERIOD.sub(_repeating, text))
  text = text.rstrip(".,;:? ") if not text.endswith("..") else text
  text = text.removeprefix("=").strip()
  while text.startswith("{") and closing(text) == len(text) - 1:
    text = text[1:-1].strip()
  return text


def _tex(text: str) -> str:
  """Normalises TeX commands: spaces, words, fonts, fractions."""
  text = _DELIMITER.sub(" ", text)
  if "quad" in text:
    text = _WIDE.sub(GAP, text)
  if "color" in text or "\\rm" in text:
    text = _ROMAN.sub(r"\\text{\1}", _COLOUR.sub("", text))
  if "\\mathbb" in text:
    text = _BLACKBOARD.sub(r"\\mathbb{\1}", text)
  text = _NOTHING.sub("", _SPACE.sub(" ", text))
  text = _COMMAND.sub(_command, text)
  text = _FONT.sub(r"\1", _TEXT.sub(_words, text))
  if END in text:
    text = _JOINED.sub(_together, text)
  text = text.replace("\\{", SET).replace("\\}", SET_END)
  if "\\frac" in text:
    text = _HALF_FRAC.sub(r"\1{\2}", _SMALL_FRAC.sub(r"\\frac{\1}", text))
    text = _WORD_FRAC.sub(_trimmed_frac, text)
  return text


def squeezed(text: str) -> str:
  """`plain` text without marks and spaces; `3 4` stays two numbers."""
  if not text.isascii():
    text = text.replace(WORDS, "").replace(END, "").replace(DOLLAR, "")
    text = text.replace(GAP, " ")
  text = text.replace("\\ ", "").strip()
  return text if len(text.split(None, 1)) < 2 else _BETWEEN.sub("", text)


def closing(text: str, start: int = 0) -> int:
  """Index of the bracket that closes the one at `start`; -1 without one.

  Kinds of brackets are not distinguished: `[1,2)` closes.
  """
  depth = 0
  for at in range(start, len(text)):
    character = text[at]
    depth += (character in OPEN) - (character in CLOSE)
    if depth == 0:
      return at
  return -1


def depths(text: str) -> list[int]:
  """Number of open brackets at each character."""
  levels, depth = [], 0
  for character in text:
    depth -= character in CLOSE
    levels.append(depth)
    depth += character in OPEN
  return levels


def _command(match: re.Match[str]) -> str:
  name = match.group(1)
  if name in _SYMBOLS:
    return _SYMBOLS[name]
  return "\\" + _COMMANDS[name] if name in _COMMANDS else match.group()


def _words(match: re.Match[str]) -> str:
  """Marks text as words, unless it is an upright function or constant."""
  content = match.group(2)
  word = content.strip()
  word = _ALIASES.get(word, word)
  if word in FUNCTIONS and not (word in ("min", "sec") and not re.match(
      r"\s*[\w\\({^_]", match.string[match.end():])):
    return f"\\{word} "
  if match.group(1) in ("mathrm", "operatorname", "rm") and word in (
      "e", "i", "d"):
    return word
  if not any(c.isalpha() for c in re.sub(r"\\[A-Za-z]+", "", word)):
    return content
  return f"{WORDS}{content}{END}"


def _together(match: re.Match[str]) -> str:
  """Joins `\\mathrm{km} / \\mathrm{h}` into one text, `km/h`."""
  power, joint, digit = match.groups()
  if digit:
    return match.group()
  joint = {"/": "/", "-": "·", "\\cdot": "·", "\\times": "·"}.get(joint, " ")
  return (power or "") + joint


def _trimmed_frac(match: re.Match[str]) -> str:
  return f"\\frac{{{match.group(1).strip()}}}{{{match.group(2).strip()}}}"


def _primes(match: re.Match[str]) -> str:
  return (match.group(1) or match.group(2)).replace(" ", "")


def _repeating(match: re.Match[str]) -> str:
  whole, fixed, group, digit, between, last, final, round_ = match.groups()
  period = group or digit or round_
  if last or final:
    period += between + (last or final)
  elif between is not None:
    return match.group()
  return _periodic(whole or "0", fixed, period)


def _repeated(match: re.Match[str]) -> str:
  """`0.333...` as a fraction: one digit three times, or several ones twice."""
  whole, fixed, period = match.groups()
  written = match.group().partition(".")[2]
  times = len(re.match(r"\d+", written).group()[len(fixed):]) / len(period)
  if times < 3 and len(period) < 2:
    return match.group()
  return _periodic(whole or "0", fixed, period)


def _periodic(whole: str, fixed: str, period: str) -> str:
  nines = 10 ** len(period) - 1
  value = (int(whole) + fractions.Fraction(int(fixed or 0), 10 ** len(fixed))
           + fractions.Fraction(int(period), nines * 10 ** len(fixed)))
  if value.denominator == 1:
    return str(value.numerator)
  return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
