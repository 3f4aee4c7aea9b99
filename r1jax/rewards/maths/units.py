"""Recognises units after a number.

Units are known units, names of currencies, common counted nouns, and the words
of the question and the reference (`nouns`). Any other word after a number may
change its value ("5 sevenths", "5 below zero", 5折) and is not a unit.
"""

from __future__ import annotations

import re

from r1jax.rewards.maths.notation import DOLLAR, END, FUNCTIONS, WORDS

CURRENCIES = {
    DOLLAR: "dollar", "$": "dollar", "¥": "yuan", "€": "euro", "£": "pound",
    "₹": "rupee", "¢": "cent", "₽": "ruble", "₩": "won", "USD": "dollar",
    "RMB": "yuan", "CNY": "yuan", "EUR": "euro", "GBP": "pound",
    "INR": "rupee", "US$": "dollar", "Rs": "rupee"}
# Spellings of each unit; the first is the canonical one.
_SPELLINGS = """
mm millimeter millimetre 毫米;cm centimeter centimetre 厘米;dm decimeter 分米
m meter metre 米;km kilometer kilometre 千米 公里;in inch inches;nm nanometer
ft foot feet;yd yard;mi mile 英里;mg milligram 毫克;g gram gramme 克
um micrometer
kg kilogram 千克 公斤;t ton tonne 吨;lb lbs;oz ounce;ms millisecond 毫秒
s sec second 秒 秒钟;min minute 分钟;h hr hour 小时 时;day 天 日;week 星期 周
month 月 个月;year yr 年;year-old 岁;L l liter litre 升;mL ml milliliter 毫升
dollar buck 美元;yuan 元 块 块钱 人民币 RMB;cent ¢ 美分;euro 欧元;jiao 角
fen 分;pound;rupee;penny pence;fl gallon gal;quart qt;pint pt;cup;acre
Hz hertz;kHz;MHz;GHz;N newton 牛 牛顿;kN;J joule 焦 焦耳;kJ kilojoule;cal
kcal;W watt 瓦;kW kilowatt;MW;V volt 伏;A ampere amp 安;mA;K kelvin;Pa pascal
kPa;MPa;atm;bar;mmHg;mol mole 摩尔;ohm Ω \\Omega;F farad;H henry;T tesla
C coulomb
eV;keV;MeV;GeV;erg;dyn;rad radian 弧度;degree deg 度;sr;unit 单位;rev revolution
mph;kmh kph kmph;dB;lx;cd;lm;pc parsec;AU au;ly;M;bit;byte;KB;MB;GB
hectare ha 公顷;mu 亩;Å angstrom;are;stone;rpm;psi
th st nd rd
"""
_UNITS = {}
for _line in re.split(r"[;\n]", _SPELLINGS.strip()):
  if _line.startswith("th "):
    _UNITS |= dict.fromkeys(_line.split(), "th")
  else:
    _UNITS |= {spelling: _line.split()[0] for spelling in _line.split()}
_UNITS |= dict.fromkeys(  # Chinese counters, which count as equal
    "个只名人位本张条棵颗辆件支枝把朵头匹台间盒箱袋包瓶杯桶根道题页"
    "次场句种类组班排行列层座套双对份片粒筐堆所艘架幅面户家盆盏枚株"
    "串首章篇项站步遍圈筒听罐碗盘顶扇口尾群队箩捆束段节级格点批车",
    "个")
_COMPOSED = {"mph": ("mi", "h"), "kmh": ("km", "h")}
# Nouns that an answer may count even if the question does not have them.
_COUNTERS = frozenset(
    "time times way people person item piece student child point unit dollar"
    " solution root value element digit number integer ball card"
    " coin game page book step term side vertex vertice edge face triangle"
    " square line segment angle case possibility outcome combination"
    " arrangement permutation function subset set total".split())
_TIMES = frozenset(["time", "times"])
_COUNTED = _COUNTERS - _TIMES - frozenset(
    "square root total set unit number".split())
# Words that change the number before them, even if the question has them.
_CHANGES = frozenset(
    "or and to through but not plus minus times over half halves third thirds"
    " quarter quarters fourth fourths fifth fifths sixth sixths seventh"
    " sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths"
    " thousandth thousandths base mod modulo repeating recurring"
    " if when where otherwise infinity infinite sqrt pi is are was than less"
    " more fewer below above under about least most wrong incorrect false"
    " either neither between by maybe perhaps divided multiplied hundred"
    " thousand million billion trillion dozen score factorial power squared"
    " cubed choose any except without short off away before after ago zero"
    " one two three four five six seven eight nine ten eleven twelve"
    " no none nor isn't aren't never hardly almost nearly roughly double"
    " triple twice inverse reciprocal opposite conjugate complement as of"
    " greater larger smaller bigger equals equal".split())
_ENDING = frozenset("negative positive even odd square root cube".split())
_CHANGES_CJK = re.compile(
    r"[或和与至到不非分之加减乘除错约多少于又百千万亿半折成倍负零几余来]")
_WORD = re.compile(r"[^\W\d_]+|\\Omega|\\mu|¢|[°%]")
_TOKEN = re.compile(
    r"\s*(per\b|[/·*.]|\\cdot|\\times|-|[A-Za-zΩÅ¢]+(?:'s)?|\\Omega\b"
    r"|\\mu\b|[\u4e00-\u9fff]+)\s*"
    r"(?:\^\s*(?:\{\s*(-?\s*\d)\s*\}|(-?\d))|(squared|cubed)\b)?")
_CIRC = "^{\\circ}"


def words(text: str) -> frozenset[str]:
  """The words of a question or a reference, in the singular."""
  return frozenset(
      singular(word) for word in re.findall(
          r"[^\W\d_]+", re.sub(r"\\[A-Za-z]+", " ", text.casefold())))


def singular(word: str) -> str:
  """A word without its plural ending."""
  if word.endswith("ies") and len(word) > 4:
    return word[:-3] + "y"
  if word.endswith(("ches", "shes", "sses", "xes")):
    return word[:-2]
  return word[:-1] if word.endswith("s") and len(word) > 3 and (
      not word.endswith("ss")) else word


def unit(text: str, nouns: frozenset[str] = frozenset(),
         spaced: bool = True) -> str | None:
  """The canonical spelling of a unit; None if `text` is not a unit.

  Args:
    text: the text after a number, marked as words or not.
    nouns: words that may be counted, see `words`.
    spaced: whether there is a space between the number and `text`: `5x` is a
      product, and `5m` may be one.
  """
  marked = text.startswith(WORDS)
  text = text.replace(WORDS, " ").replace(END, " ").strip(" .,")
  if not text or len(text) > 80:
    return None
  if text.casefold() in ("%", "percent", "per cent", "percentage", "pct"):
    return "%"
  if text.startswith(_CIRC):
    rest = text[len(_CIRC):].strip()
    return {"": "degree", "C": "degreeC", "F": "degreeF"}.get(rest)
  if text in CURRENCIES:
    return CURRENCIES[text]
  if text in ("years old", "year old", "years of age"):
    return "year"
  if not marked and not spaced and len(text) == 1 and text.isascii():
    return None
  return _composed(text) or _counted(text, nouns, marked)


def _composed(text: str) -> str | None:
  """Composed units: `m/s^2`, "feet per second", "square centimeters", 平方米.

  None if any character is not a part of a unit, a power or an operator.
  """
  powers: dict[str, int] = {}
  at, sign, scale, prefix = 0, 1, 1, ""
  while at < len(text):
    match = _TOKEN.match(text, at)
    if not match:
      return None
    at = match.end()
    word, *raised = match.groups()
    if word in ("/", "per"):
      sign = -1
      continue
    if word in ("·", "*", "-", "\\cdot", "\\times", "."):
      continue
    if word.lower() in ("square", "sq", "cubic", "cu", "平方", "立方"):
      scale = 2 if word.lower()[:2] in ("sq", "平方") else 3
      continue
    if word == "\\mu":
      prefix = "u"
      continue
    if word.startswith(("平方", "立方")):
      scale, word = 2 if word[0] == "平" else 3, word[2:]
    name = known(prefix + word)
    if not name:
      return None
    power = next((r for r in raised if r), "1")
    power = {"squared": 2, "cubed": 3}.get(power) or int(
        power.replace(" ", ""))
    for part, turn in zip(_COMPOSED.get(name, (name,)), (1, -1)):
      powers[part] = powers.get(part, 0) + power * scale * sign * turn
    sign, scale, prefix = 1, 1, ""
  if sign < 0 or scale > 1 or prefix or not powers:
    return None
  return " ".join(f"{name}{'' if power == 1 else power}"
                  for name, power in sorted(powers.items()) if power)


def known(word: str) -> str | None:
  """The canonical spelling of a unit in the table; None if it is unknown."""
  lower = word.lower()
  return (_UNITS.get(word) or _UNITS.get(lower) if len(word) > 2 or (
      word in _UNITS) else None) or (
          _UNITS.get(singular(lower)) if len(word) > 3 else None)


def _counted(text: str, nouns: frozenset[str], marked: bool) -> str | None:
  """Counted nouns of the question, or common ones; None for other words."""
  parts = list(filter(None, re.split(r"[\s/]+", text)))
  if len(parts) > 5:
    return None
  names = []
  for word in parts:
    if not all(c.isalpha() or c in "-'" for c in word):
      return None
    lower = word.casefold()
    if "\u4e00" <= word[0] <= "\u9fff":
      name = _cjk(word, nouns)
      if not name:
        return None
      names.append(name)
      continue
    if lower in _CHANGES or lower in FUNCTIONS or (
        len(lower) < 3 and not marked):
      return None
    one = singular(lower)
    if one not in nouns and one not in _COUNTED and lower not in nouns:
      return None
    names.append(one)
  if not names or names[-1] in _ENDING:
    return None
  return " ".join(names)


def _cjk(word: str, nouns: frozenset[str]) -> str | None:
  """A counter with a noun (个苹果), or a word of the question (倍 in 几倍)."""
  bare = word
  for name in _UNITS:
    if word.startswith(name) and name[0] >= "\u4e00":
      bare = word[len(name):]
      if not bare:
        return _UNITS[name]
      break
  if bare in ("半", "折", "成", "多"):
    return None
  asked = any(bare in noun for noun in nouns)
  if _CHANGES_CJK.search(bare) and not (bare == "倍" and asked):
    return None
  return bare if asked else None
