"""Numbers as people write them, with units: `1,000`, `3/4`, `5 cm`, `3元`."""

from __future__ import annotations

import fractions
import re
from typing import NamedTuple

from r1jax.rewards.notation import DOLLAR, END, FUNCTIONS, WORDS

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(rf"([+-]?)\s*({_DIGITS})", re.ASCII)
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s*({_DIGITS})\s*(?:(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*"
    r"(?:\{\s*([+-]?\s*\d{1,3})\s*\}|(-?\d{1,2}))|[eE]([+-]?\d{1,3}))",
    re.ASCII)
_RATIO = re.compile(r"([+-]?)\s*(-?\d+)\s*/\s*(\d+)", re.ASCII)
_FRAC = re.compile(
    r"([+-]?)\s*\\frac\s*\{(-?\d+)\}\s*\{(-?\d+)\}", re.ASCII)
_MIXED = re.compile(
    r"([+-]?)\s*(\d+)(?:\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}|\s+(\d+)/(\d+))",
    re.ASCII)
_CHINESE = re.compile(
    r"([一二三四五六七八九十]|\d+)分之([一二三四五六七八九十]|\d+)", re.ASCII)
_CHINESE_DIGITS = {c: i for i, c in enumerate("一二三四五六七八九十", 1)}
_PERCENT = re.compile(r"百分之(\d+(?:\.\d+)?)")

_CURRENCIES = {DOLLAR: "dollar", "$": "dollar", "¥": "yuan", "€": "euro",
               "£": "pound"}
_MAGNITUDES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "dozen": 12, "百": 10**2, "千": 10**3, "万": 10**4,
    "百万": 10**6, "千万": 10**7, "亿": 10**8,
}
_MAGNITUDE = re.compile(
    r"\s*(?:(hundred|thousand|million|billion|trillion|dozen)\b"
    r"|(百万|千万|百|千|万|亿)(?![米克瓦帕分]))")
# Spellings of a unit; the first stands for all.
_SPELLINGS = """
mm millimeter millimetre 毫米;cm centimeter centimetre 厘米;dm 分米
m meter metre 米;km kilometer kilometre 千米 公里;in inch inches
ft foot feet;yd yard;mi mile;mg milligram 毫克;g gram 克
kg kilogram 千克 公斤;t ton tonne 吨;lb pounds;oz ounce;ms millisecond 毫秒
s sec second 秒;min minute 分 分钟;h hr hour 小时 时;day 天 日;week 星期 周
month 月 个月;year yr 年 岁;L l liter litre 升;mL ml milliliter 毫升
dollar 美元;yuan 元 块 人民币 RMB;cent 美分;euro 欧元;jiao 角;fen
Hz hertz;N newton 牛;J joule 焦;kJ kilojoule;W watt 瓦;kW kilowatt
V volt 伏;A ampere amp 安;K kelvin;Pa pascal;kPa;mol mole 摩尔;ohm Ω
eV;MeV;rad radian 弧度;degree deg 度;unit 单位;mph;kmh kph;m/s;km/h;nm;MHz;kHz
"""
_UNITS = {spelling: line.split()[0]
          for line in re.split(r"[;\n]", _SPELLINGS.strip())
          for spelling in line.split()}
_ALIASES = {"mi/h": "mph", "kmh": "km/h"}
# Words after a number that change it, or start another one.
_NOT_UNITS = frozenset(
    "or and to through but not plus minus times over half halves third thirds"
    " quarter quarters fourths fifth fifths sixths tenths hundredths base mod"
    " if when where otherwise infinity infinite sqrt pi is are was than less"
    " more about least most wrong either neither between by maybe perhaps"
    " divided multiplied hundred thousand million billion trillion dozen"
    " factorial power squared cubed choose for all any".split())
_NOT_UNITS_CJK = re.compile(r"[或和与至到不非分之加减乘除错约多少于又百千万亿]")
_SUFFIX = re.compile(
    rf"\s*(?P<text>{WORDS}[^{END}]{{1,60}}{END}|\^\{{\\circ\}}\s*[CF]?(?![\w])"
    r"|%|(?<=[\s\d)}])\s*[A-Za-zΩ][A-Za-zΩ /.]{0,50}|[\u4e00-\u9fff]{1,8}"
    r"(?:/[\u4e00-\u9fff]{1,4})?)"
    r"(?:\^\s*(?:\{\s*(?P<power>[23])\s*\}|(?P<digit>[23])))?\s*\Z")
_WORD = re.compile(r"[A-Za-zΩ]+|[\u4e00-\u9fff]+")


class Quantity(NamedTuple):
  """An exact number and what it counts; unit "" if none is written."""

  value: fractions.Fraction
  unit: str


def quantity(text: str) -> Quantity | None:
  """The number that plain `text` is; None if it is anything else.

  Signs, decimals, grouped thousands, `a/b`, `\\frac{a}{b}`, mixed numbers,
  scientific notation, "5 million", 四分之一, currencies, percent, units. A
  fraction that comes out whole (`24/2`) is a division still to be done: None.
  So is `(1,2)` and `1,00`.
  """
  value = _literal(text)
  if value is not None:
    return Quantity(value, "")
  if match := _PERCENT.fullmatch(text):
    return Quantity(fractions.Fraction(match.group(1)), "%")
  body, unit = split_unit(text, words=True)
  scale = 1
  if not unit or unit in _CURRENCIES.values():
    if match := _MAGNITUDE.search(body):
      scale = _MAGNITUDES[match.group(1) or match.group(2)]
      rest = body[match.end():].strip()
      body = body[:match.start()]
      if rest and not unit:
        unit = _unit(rest, words=True)
        if not unit:
          return None
      elif rest:
        return None
  value = _literal(body.strip())
  if value is None or (not unit and scale == 1):
    return None
  return Quantity(value * scale, unit)


def split_unit(text: str, words: bool = False) -> tuple[str, str]:
  """(`text` without its unit or currency, the unit's first spelling or "").

  With `words`, any words that leave the number as it is count as a unit
  ("38 red apples"); else only known units and what stands in `\\text{}`.
  """
  bare = text.lstrip("+-").lstrip()
  if bare and bare[0] in _CURRENCIES:
    sign = text[:len(text) - len(bare)].strip()
    rest = bare[1:].strip()
    if sign and rest[:1] in "+-":
      return text, ""
    return sign + rest, _CURRENCIES[bare[0]]
  if text.endswith((DOLLAR, "¥", "€", "£")):
    return text[:-1].strip(), _CURRENCIES[text[-1]]
  match = _SUFFIX.search(text[-80:])
  if not match:
    return text, ""
  if words and _MAGNITUDE.match(match.group()):
    return text, ""
  start = max(len(text) - 80, 0) + match.start()
  body = text[:start].strip()
  found = match.group("text").strip()
  power = match.group("power") or match.group("digit") or ""
  if power and found[0] == "^" or not body:
    return text, ""
  unit = _unit(found, words)
  return (body, unit + power) if unit else (text, "")


def same(answer: Quantity, gold: Quantity) -> bool:
  """Whether two numbers with units are equal; nothing is rounded or converted.

  A unit that only one side writes is overlooked. A percent sign may be left
  out (the question asks for a percentage) or worked out (50% = 0.5).
  """
  a, g = answer.value, gold.value
  if answer.unit == gold.unit:
    return a == g
  if gold.unit == "%":
    return not answer.unit and (a == g or a * 100 == g)
  if answer.unit == "%":
    # 0.5% of a gold 0.5 is more likely a slip than a percentage.
    return not gold.unit and (a == g * 100 or (a == g and abs(g) >= 1))
  return a == g and (not answer.unit or not gold.unit)


def _literal(text: str) -> fractions.Fraction | None:
  if match := _NUMBER.fullmatch(text):
    return fractions.Fraction(
        match.group(1) + match.group(2).replace(",", ""))
  if match := _SCIENTIFIC.fullmatch(text):
    sign, digits, *exponents = match.groups()
    exponent = next(e for e in exponents if e is not None)
    return (fractions.Fraction(sign + digits.replace(",", ""))
            * fractions.Fraction(10) ** int(exponent.replace(" ", "")))
  if match := _MIXED.fullmatch(text):
    sign, whole, *parts = match.groups()
    above, below = (int(p) for p in parts if p is not None)
    if not 0 < above < below:
      return None
    value = int(whole) + fractions.Fraction(above, below)
    return -value if sign == "-" else value
  if match := _CHINESE.fullmatch(text):
    below, above = (
        _CHINESE_DIGITS.get(g) or int(g) for g in match.groups())
    return _divided(above, below)
  match = _FRAC.fullmatch(text) or _RATIO.fullmatch(text)
  if match:
    sign, above, below = match.groups()
    return _divided(int(above) * (-1 if sign == "-" else 1), int(below))
  return None


def _divided(above: int, below: int) -> fractions.Fraction | None:
  if below == 0:
    return None
  value = fractions.Fraction(above, below)
  return None if value.denominator == 1 and abs(below) != 1 else value


def _unit(text: str, words: bool) -> str:
  """First spelling of a unit; "" if `text` is none."""
  marked = text.startswith(WORDS)
  text = text.strip(WORDS + END + " .,")
  if text == "%" or text.lower() in ("percent", "per cent"):
    return "%"
  if text.startswith("^"):
    return "degree" + text[len("^{\\circ}"):].strip()
  if not marked and len(text) == 1 and text.isascii():
    return ""  # `5m` and `5x`: a variable as likely as a unit
  if text in _UNITS:
    return _UNITS[text]
  found = _WORD.findall(text)
  if not found or len(found) > 5 or not _only_words(text):
    return ""
  power = ""
  if found[0].lower() in ("square", "sq", "cubic", "cu"):
    power = "2" if found[0].lower().startswith("sq") else "3"
    found = found[1:]
  elif found[0].startswith(("平方", "立方")):
    power = "2" if found[0].startswith("平方") else "3"
    found = [found[0][2:] or "unit"]
  elif found[-1].lower() in ("squared", "cubed") and len(found) == 2:
    power = "2" if found[-1].lower() == "squared" else "3"
    found = found[:1]
  spelled = []
  for word in found:
    if word.lower() in _NOT_UNITS or word.lower() in FUNCTIONS:
      return ""
    if "\u4e00" <= word[0] <= "\u9fff" and _NOT_UNITS_CJK.search(word) and (
        word not in _UNITS):
      return ""
    lower = word.lower()
    known = (_UNITS.get(word) or _UNITS.get(lower)
             or _UNITS.get(lower.removesuffix("s")))
    short = not marked and len(word) < 3 and word.isascii()
    if not known and (not words or short):
      return ""
    spelled.append(known or lower.removesuffix("s"))
  if "per" in spelled or "/" in text:
    spelled = ["/".join(w for w in spelled if w != "per")]
  name = " ".join(spelled)
  return _ALIASES.get(name, name) + power


def _only_words(text: str) -> bool:
  return all(c.isalpha() or c in " /." for c in text)
