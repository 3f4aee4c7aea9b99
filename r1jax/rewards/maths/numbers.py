"""Parses numbers with units: `1,000`, `3/4`, `5 cm`, `3元`."""

from __future__ import annotations

import fractions
import re
from typing import NamedTuple

from r1jax.rewards.maths import units
from r1jax.rewards.maths.notation import DOLLAR, END, WORDS

_DIGITS = (r"(?:\d{1,3}(?:,\s?\d{3})+(?!\d)|\d{1,3}(?:[ _']\d{3})+(?!\d)"
           r"|\d+)(?:\.\d*)?|\.\d+")
_NUMBER = re.compile(rf"([+-]?)\s*({_DIGITS})", re.ASCII)
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s*({_DIGITS})\s*(?:(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*"
    r"(?:\{\s*([+-]?\s*\d{1,3})\s*\}|\(\s*([+-]?\s*\d{1,3})\s*\)|(-?\d{1,3}))"
    r"|[eE]([+-]?\d{1,3}))", re.ASCII)
_TENS = re.compile(r"()(1)0\s*\^\s*(?:\{\s*(-?\d{1,3})\s*\}|(-?\d{1,3}))")
_RATIO = re.compile(r"([+-]?)\s*(-?\d+)\s*/\s*(\d+)", re.ASCII)
_FRAC = re.compile(
    r"([+-]?)\s*\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}", re.ASCII)
_MIXED = re.compile(
    r"([+-]?)\s*(\d+)(?:\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}|\s+(\d+)/(\d+)"
    rf"|\s*{WORDS}?\s*and\s*{END}?\s*(?:\\frac\s*\{{(\d+)\}}\s*\{{(\d+)\}}"
    r"|(\d+)/(\d+)))", re.ASCII)
_STARTS = re.compile(r"[+-]?\s*(?:[\d.]|\\frac)", re.ASCII)
_COMMA = re.compile(r"([+-]?)(\d+),(\d{1,2}|\d{4,})", re.ASCII)
_PARENTHESISED = re.compile(r"([+-]?)\s*\((.*)\)")
_CHINESE = re.compile(r"[零〇一二两三四五六七八九十百千万亿]+")
_CHINESE_PARTS = re.compile(
    r"([零〇一二两三四五六七八九十百千]+|\d+)分之"
    r"([零〇一二两三四五六七八九十百千]+|\d+(?:\.\d+)?)", re.ASCII)
_CHINESE_DIGITS = dict(zip("零〇一二两三四五六七八九",
                           (0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9)))
_CHINESE_TENS = {"十": 10, "百": 100, "千": 1000}
_SPOKEN = dict(zip(
    "zero one two three four five six seven eight nine ten eleven twelve"
    " thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(),
    range(20)))
_SPOKEN_TENS = dict(zip(
    "twenty thirty forty fifty sixty seventy eighty ninety".split(),
    range(20, 100, 10)))
_SPOKEN_PARTS = {
    name + ending: below for below, *names in (
        (2, "half"), (3, "third"), (4, "quarter", "fourth"), (5, "fifth"),
        (6, "sixth"), (7, "seventh"), (8, "eighth"), (9, "ninth"),
        (10, "tenth")) for name in names for ending in ("", "s")} | {
            "halves": 2}
_SIGN = re.compile(r"(?:minus|negative)\s+|负\s*")
_MIXED_CJK = re.compile(r"(.+)又(.+分之.+)")
_MAGNITUDES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "dozen": 12, "百": 10**2, "千": 10**3, "万": 10**4,
    "百万": 10**6, "千万": 10**7, "亿": 10**8,
}
_MAGNITUDE = re.compile(
    rf"\s*{WORDS}?\s*(?:(hundred|thousand|million|billion|trillion|dozen)s?\b"
    rf"|(百万|千万|百|千|万|亿)(?![米克瓦帕分]))\s*{END}?")
_BASED = re.compile(
    r"\(?\s*([0-9A-F]{1,40})\s*\)?\s*(?:_\s*(?:\{\s*([^{}]+?)\s*\}|(\d{1,2}))"
    rf"|[{WORDS}(\s]*(?:in\s+)?base[\s-]*(\w+)\s*\)?\s*{END}?\s*\)?)")
_BASES = dict(zip(
    "two three four five six seven eight nine ten eleven twelve".split(),
    range(2, 13)))
_CURRENCY = re.compile(
    rf"([+-]?)\s*(?:{WORDS}\s*)?(USD|RMB|CNY|EUR|GBP|INR|US\$|Rs|[$¥€£₹₽₩"
    rf"{DOLLAR}])\.?\s*(?:{END})?\s*(?=[\d.])")
# (text of a number, the unit after it) of `2 hours 30 minutes`.
_PART = re.compile(
    r"\s*(?:and\b)?\s*(\d+(?:\.\d+)?)\s*(\^\{\\circ\}|''?(?!')"
    r"|[A-Za-z]+\.?|[\u4e00-\u9fff]{1,2})(?:,|\s|and\b)*")
_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d))?")
# Units that are converted if one side has several: (kind, size).
_FAMILIES = {
    "day": ("time", 86400), "h": ("time", 3600), "min": ("time", 60),
    "s": ("time", 1), "dollar": ("money", 100), "cent": ("money", 1),
    "yuan": ("元", 100), "jiao": ("元", 10), "fen": ("元", 1),
    "degree": ("angle", 3600), "'": ("angle", 60), "''": ("angle", 1),
    "ft": ("length", 12), "in": ("length", 1), "lb": ("weight", 16),
    "oz": ("weight", 1), "m": ("metric", 100), "cm": ("metric", 1),
    "year": ("years", 12), "month": ("years", 1),
    "week": ("week", 7),
}


class Quantity(NamedTuple):
  """An exact number with its unit, "" if none is written.

  `several` says that it was written with more than one unit (2 h 30 min); the
  value is then in the first of them.
  """

  value: fractions.Fraction
  unit: str
  several: bool = False


def quantity(text: str, nouns: frozenset[str] = frozenset(),
             ) -> Quantity | None:
  """The number that `text` is; None if it is anything else.

  Signs, decimals, grouped thousands, `a/b`, `\\frac{a}{b}`, mixed numbers,
  scientific notation, "5 million", 四分之一, 三十, currencies, percent, units,
  a base. A fraction that is an integer (`24/2`) is an unevaluated division, so
  None; so are `(1,2)` and `1,00`. A single number may be in brackets.

  Args:
    text: as `notation.plain` returns it.
    nouns: words that may follow a number.
  """
  value = literal(text)
  if value is not None:
    return Quantity(value, "")
  if not 0 < len(text) <= 200:
    return None
  if match := _BASED.fullmatch(text):
    return _based(*match.groups())
  if match := _PARENTHESISED.fullmatch(text):
    inner = quantity(match.group(2).strip(), nouns)
    if inner and match.group(1) == "-":
      return inner._replace(value=-inner.value)
    return inner
  if text[0] == WORDS and text.find(END) == len(text) - 1:
    return quantity(text[1:-1].strip(), nouns) if text[1:-1].strip() else None
  return (_chinese(text, nouns) or _in_currency(text, nouns)
          or _with_unit(text, nouns) or _compound(text)
          or _spoken(text, nouns))


def literal(text: str) -> fractions.Fraction | None:
  """The value of a number without a unit; None if `text` is not one."""
  if match := _NUMBER.fullmatch(text):
    digits = re.sub(r"[,\s_']", "", match.group(2))
    return fractions.Fraction(match.group(1) + digits)
  if match := _SCIENTIFIC.fullmatch(text) or _TENS.fullmatch(text):
    return _scientific(match)
  if match := _MIXED.fullmatch(text):
    return _mixed(match)
  match = _FRAC.fullmatch(text) or _RATIO.fullmatch(text)
  return _fraction(match) if match else None


def decimal_comma(text: str) -> fractions.Fraction | None:
  """The value of `0,5` with a decimal comma; None for anything else."""
  match = _COMMA.fullmatch(text)
  if not match:
    return None
  return fractions.Fraction("".join(match.groups()[:2]) + "."
                            + match.group(3))


def clock(text: str) -> Quantity | None:
  """`2:30` as a duration in hours; None for anything else."""
  match = _CLOCK.fullmatch(text)
  if not match:
    return None
  hours, minutes, seconds = (int(g or 0) for g in match.groups())
  return Quantity(fractions.Fraction(
      3600 * hours + 60 * minutes + seconds, 3600), "h", True)


def split_unit(text: str) -> tuple[str, str]:
  """(`text` without its unit or currency, canonical unit or "").

  Only units in `\\text{}`, degrees and currencies: the number before may be an
  expression.
  """
  bare = text.lstrip("+-").lstrip()
  if bare[:1] and bare[0] in units.CURRENCIES:
    sign = text[:len(text) - len(bare)].strip()
    if sign and bare[1:].lstrip()[:1] in ("+", "-"):
      return text, ""
    return sign + bare[1:].strip(), units.CURRENCIES[bare[0]]
  if text.endswith((DOLLAR, "¥", "€", "£", "¢", "₹")):
    return text[:-1].strip(), units.CURRENCIES[text[-1]]
  start = text.rfind(WORDS)
  if start <= 0:
    return text, ""
  if text[:start].rstrip().endswith("^{\\circ}"):
    start = text[:start].rstrip().rindex("^{\\circ}")
  unit = units.unit(text[start:])
  return (text[:start].strip(), unit) if unit else (text, "")


def same(answer: Quantity, gold: Quantity) -> bool:
  """Whether two numbers with units are equal, exactly.

  A unit that only one side has is ignored, except ' and '' (minutes and seconds
  of arc, feet and inches). Units are converted only if one side has several. A
  percent sign may be left out (the question may ask for a percentage) or
  evaluated (50% = 0.5).
  """
  a, g = answer.value, gold.value
  if answer.unit == gold.unit:
    return a == g
  if answer.several or gold.several:
    kinds = [_FAMILIES.get(q.unit) for q in (answer, gold)]
    if all(kinds) and kinds[0][0] == kinds[1][0]:
      return a * kinds[0][1] == g * kinds[1][1]
    return a == g and (not answer.unit or not gold.unit)
  if answer.unit[:1] == "'" or gold.unit[:1] == "'":
    return False
  if gold.unit == "%":
    return not answer.unit and (a == g or a * 100 == g)
  if answer.unit == "%":
    # 0.5% of a gold 0.5 is more likely a slip than a percentage.
    return not gold.unit and (a == g * 100 or (a == g and abs(g) >= 1))
  if answer.unit == "cent" and not gold.unit and g.denominator > 1 and (
      100 % g.denominator == 0):
    return a == g * 100 or a == g  # 3.50 is money: 350 cents
  return a == g and (not answer.unit or not gold.unit)


def _scientific(match: re.Match[str]) -> fractions.Fraction:
  sign, digits, *exponents = match.groups()
  exponent = next(e for e in exponents if e is not None)
  return (fractions.Fraction(sign + re.sub(r"[,\s_']", "", digits))
          * fractions.Fraction(10) ** int(exponent.replace(" ", "")))


def _mixed(match: re.Match[str]) -> fractions.Fraction | None:
  sign, whole, *parts = match.groups()
  above, below = (int(p) for p in parts if p is not None)
  if not 0 < above < below:
    return None
  value = int(whole) + fractions.Fraction(above, below)
  return -value if sign == "-" else value


def _fraction(match: re.Match[str]) -> fractions.Fraction | None:
  sign, above, below = match.groups()
  return _divided(int(above) * (-1 if sign == "-" else 1), int(below))


def _divided(above: int, below: int) -> fractions.Fraction | None:
  if below == 0:
    return None
  value = fractions.Fraction(above, below)
  return None if value.denominator == 1 and abs(below) != 1 else value


def _based(digits: str, *bases: str | None) -> Quantity | None:
  """`2112_6`: the digits as a number, with the base as its unit."""
  written = (next(filter(None, bases), "")).strip(
      WORDS + END + " ").lower()
  base = _BASES.get(written) or (int(written) if written.isdigit() else 0)
  if not digits.isdigit() or not 2 <= base <= 36 or any(
      int(digit) >= base for digit in digits):
    return None
  return Quantity(fractions.Fraction(digits), f"base {base}")


def _chinese(text: str, nouns: frozenset[str]) -> Quantity | None:
  """四分之一, 百分之五十, 三十, 三个."""
  if text[:1] <= "\u3007" and "分之" not in text:
    return None
  if match := _CHINESE_PARTS.fullmatch(text):
    below, above = (_chinese_number(g) if not g[0].isdigit()
                    else fractions.Fraction(g) for g in match.groups())
    if match.group(1) == "百" or below == 100:
      return Quantity(fractions.Fraction(above), "%")
    if not below or fractions.Fraction(above).denominator != 1:
      return None
    value = _divided(int(above), int(below))
    return None if value is None else Quantity(value, "")
  match = _CHINESE.match(text)
  if not match:
    return None
  rest = text[match.end():]
  unit = units.unit(rest, nouns) if rest else ""
  if unit is None:
    return None
  return Quantity(fractions.Fraction(_chinese_number(match.group())), unit)


def _chinese_number(text: str) -> int:
  if all(c in _CHINESE_DIGITS for c in text):
    return int("".join(str(_CHINESE_DIGITS[c]) for c in text))
  total = section = digit = 0
  for character in text:
    if character in _CHINESE_DIGITS:
      digit = _CHINESE_DIGITS[character]
    elif character in _CHINESE_TENS:
      section += (digit or 1) * _CHINESE_TENS[character]
      digit = 0
    else:
      scale = 10**4 if character == "万" else 10**8
      total = (total + section + digit) * scale
      section = digit = 0
  return total + section + digit


def _in_currency(text: str, nouns: frozenset[str]) -> Quantity | None:
  """`-$5`, `USD 3.50`, `$5 million`, `£3 profit`."""
  match = _CURRENCY.match(text)
  if not match:
    return None
  rest = text[match.end():].strip()
  amount = _with_unit(rest, nouns)
  value = literal(rest)
  if value is not None:
    amount = Quantity(value, "")
  if amount is None or amount.unit and amount.unit != "dollar":
    return None
  value = -amount.value if match.group(1) == "-" else amount.value
  return Quantity(value, units.CURRENCIES[match.group(2)])


def _with_unit(text: str, nouns: frozenset[str]) -> Quantity | None:
  """A number followed by a magnitude, a unit, or both."""
  if not _STARTS.match(text):
    return None
  for pattern in (_SCIENTIFIC, _MIXED, _FRAC, _RATIO, _TENS, _NUMBER):
    match = pattern.match(text)
    if match and not text[match.end():match.end() + 1].isdigit():
      break
  else:
    return None
  number, rest = literal(match.group().strip()), text[match.end():]
  if number is None or not rest.strip():
    return None
  # After \frac{50}{39} a letter is a factor, with or without a space.
  spaced = rest[0] == " " and text[match.end() - 1] != "}"
  if magnitude := _MAGNITUDE.match(rest):
    number *= _MAGNITUDES[magnitude.group(1) or magnitude.group(2)]
    rest, spaced = rest[magnitude.end():], True
  rest = rest.strip()
  if rest in ("'", "''"):
    return Quantity(number, rest)
  unit = units.unit(rest, nouns, spaced) if rest else ""
  return None if unit is None else Quantity(number, unit)


def _spoken(text: str, nouns: frozenset[str]) -> Quantity | None:
  """`twenty-five`, "minus 5", "two and a half", 负五, 五又二分之一."""
  if "\\" in text or len(text) > 60 or text[0] in "+-":
    return None
  body = " ".join(
      text.replace(WORDS, " ").replace(END, " ").casefold().split())
  if match := _SIGN.match(body):
    inner = quantity(body[match.end():], nouns) if body[match.end():] else None
    if inner is None or inner.value <= 0 or _SIGN.match(body, match.end()):
      return None
    return inner._replace(value=-inner.value)
  if match := _MIXED_CJK.fullmatch(body):
    whole, part = quantity(match.group(1)), quantity(match.group(2))
    if not whole or not part or whole.unit or part.unit or (
        whole.value.denominator > 1 or not 0 < part.value < 1):
      return None
    return Quantity(whole.value + part.value, "")
  whole, joint, part = body.partition(" and ")
  value = _spoken_part(body)
  if value is None and joint:
    digits = re.fullmatch(r"\d{1,9}", whole, re.ASCII)
    before = int(whole) if digits else _spoken_number(whole.split())
    above = _spoken_part(part)
    if before is not None and above is not None and above < 1:
      value = before + above
  if value is None:
    number = _spoken_number(re.split(r"[\s-]+", body))
    value = None if number is None else fractions.Fraction(number)
  return None if value is None else Quantity(value, "")


def _spoken_part(text: str) -> fractions.Fraction | None:
  """`half`, "a third", "three-quarters"."""
  *above, name = re.split(r"[\s-]+", text)
  below = _SPOKEN_PARTS.get(name)
  if below is None or len(above) > 1 or not above and name != "half":
    return None
  number = 1 if not above or above[0] in ("a", "an") else _SPOKEN.get(above[0])
  return fractions.Fraction(number, below) if number else None


def _spoken_number(said: list[str]) -> int | None:
  """A number below a thousand in words: `two hundred and five`."""
  if said[1:2] == ["hundred"]:
    hundreds = 1 if said[0] == "a" else _SPOKEN.get(said[0], 0)
    rest = said[3:] if said[2:3] == ["and"] else said[2:]
    if not 0 < hundreds < 10 or said[2:] and not rest:
      return None
    below = _spoken_number(rest) if rest else 0
    return None if below is None or below > 99 else 100 * hundreds + below
  tens = _SPOKEN_TENS.get(said[0])
  if tens is not None and len(said) == 2:
    ones = _SPOKEN.get(said[1], 0)
    return tens + ones if 0 < ones < 10 else None
  return (_SPOKEN.get(said[0], tens)) if len(said) == 1 else None


def _compound(text: str) -> Quantity | None:
  """`2 hours 30 minutes`, `3元5角`, `30^{\\circ}15'`, in the first unit."""
  parts, at = [], 0
  text = text.replace(WORDS, " ").replace(END, " ").strip()
  while at < len(text):
    match = _PART.match(text, at)
    if not match:
      return None
    name = match.group(2).strip(" .")
    unit = "degree" if name[0] == "^" else name if name[0] == "'" else (
        units.known(name))
    if name == "分" and parts and parts[-1][1] == "h":
      unit = "min"
    parts.append((fractions.Fraction(match.group(1)), unit))
    at = match.end()
  kinds = [_FAMILIES.get(name) for _, name in parts]
  if len(parts) < 2 or None in kinds:
    return None
  if len({kind for kind, _ in kinds}) > 1 or any(
      b[1] >= a[1] for a, b in zip(kinds, kinds[1:])):
    return None
  total = sum(value * scale for (value, _), (_, scale) in zip(parts, kinds))
  return Quantity(total / kinds[0][1], parts[0][1], True)
