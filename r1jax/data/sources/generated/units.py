"""Generated multiple-choice questions in physics, chemistry and biology.

Wrong options are common mistakes: the inverse operation, a factor of ten, a
forgotten square. All numbers are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws

SPLITS = {"train": 2000, "validation": 128, "test": 128}


class Item(NamedTuple):
  """A question whose options have no letters yet.

  Attributes:
    stem: the question.
    right: the correct option, a number or a text.
    wrong: at least 3 incorrect options, all different.
    unit: the unit of numbers.
  """

  stem: str
  right: Fraction | str
  wrong: list[Fraction | str]
  unit: str = ""


def prompts(split: str) -> Iterator[Prompt]:
  """Questions with four options; each letter is equally likely to be right.

  No stem is in two splits. metadata: family, subject.

  Raises:
    ValueError: no such split.
  """
  return draws.distinct("units", SPLITS, split, _prompt)


def _prompt(dice: draws.Dice, split: str, index: int) -> Prompt | None:
  subject, family = dice.pick(_FAMILIES)
  item = family(dice)
  if draws.share(item.stem) != split:
    return None
  options = [_show(value, item.unit)
             for value in [item.right, *dice.sample(item.wrong, 3)]]
  order = dice.shuffled(range(4))
  letters = {letter: options[i] for letter, i in zip("ABCD", order)}
  listed = " ".join(f"{letter}) {text}" for letter, text in letters.items())
  return Prompt(
      id=index, domain="stem", source="units",
      messages=ask(f"{item.stem}\n{listed}\nAnswer with the letter."),
      reference={"answer": "ABCD"[order.index(0)], "options": letters},
      verifier="choice",
      metadata={"family": family.__name__[1:], "subject": subject})


def _number(
    stem: str, right: Fraction | int, slips: list[Fraction | int], unit: str
) -> Item:
  """An item whose wrong options are the slips that differ from `right`.

  If those are fewer than 3, then also 10, 1/10, 100 and 2 times `right`. Slips
  that are not positive or have more than 6 decimals are dropped.
  """
  right = Fraction(right)
  slips = [Fraction(slip) for slip in slips]
  more = [right * 10, right / 10, right * 100, right * 2]
  wrong = dict.fromkeys(
      slip for slip in slips if slip > 0 and slip != right and _finite(slip))
  for value in more:
    if len(wrong) < 3 and value != right:
      wrong.setdefault(value)
  return Item(stem, right, list(wrong), unit)


def _finite(value: Fraction) -> bool:
  """Whether a value has at most 6 decimals."""
  return (value * 10**6).denominator == 1


def _show(value: Fraction | str, unit: str = "") -> str:
  """A number in decimal notation with its unit; a text unchanged."""
  if isinstance(value, str):
    return value
  whole, rest = divmod(value, 1)
  text = str(whole)
  if rest:
    text += "." + f"{int(rest * 10**8):08d}".rstrip("0")
  return f"{text} {unit}".rstrip()


# (larger unit, smaller unit, how many smaller units make a larger one)
_UNITS = (
    ("km", "m", 1000), ("m", "cm", 100), ("cm", "mm", 10), ("kg", "g", 1000),
    ("t", "kg", 1000), ("L", "mL", 1000), ("h", "min", 60), ("min", "s", 60),
    ("kJ", "J", 1000), ("MPa", "kPa", 1000), ("kHz", "Hz", 1000),
    ("days", "h", 24), ("g", "mg", 1000), ("V", "mV", 1000),
)


def _conversion(dice: draws.Dice) -> Item:
  large, small, factor = dice.pick(_UNITS)
  n = dice.between(2, 60)
  if dice.below(2):
    return _number(f"How many {small} are {n} {large}?", n * factor,
                   [n * factor * 10, Fraction(n * factor, 10), n + factor],
                   small)
  return _number(f"How many {large} are {n * factor} {small}?", n,
                 [n * 10, Fraction(n, 10), n * factor, n + 1], large)


def _speed(dice: draws.Dice) -> Item:
  speed, time = dice.between(2, 90), dice.between(2, 12)
  distance = speed * time
  if dice.below(2):
    return _number(
        f"A car covers {distance} km in {time} h. What is its mean speed?",
        speed, [distance * time, distance - time, distance, speed + time],
        "km/h")
  return _number(
      f"A train moves at {speed} m/s. How far does it get in {time} s?",
      distance, [Fraction(speed, time), speed + time, distance + speed,
                 distance * 2], "m")


def _ohm(dice: draws.Dice) -> Item:
  current, resistance = dice.between(2, 15), dice.between(2, 60)
  voltage = current * resistance
  if dice.below(2):
    return _number(
        f"A current of {current} A flows through {resistance} ohms. What is"
        " the voltage?", voltage,
        [Fraction(resistance, current), resistance + current,
         current**2 * resistance, voltage + resistance], "V")
  return _number(
      f"{voltage} V lie across {resistance} ohms. What current flows?",
      current, [voltage * resistance, voltage - resistance, resistance,
                current + 1], "A")


def _density(dice: draws.Dice) -> Item:
  density, volume = dice.between(2, 20), dice.between(2, 40)
  mass = density * volume
  if dice.below(2):
    return _number(
        f"A body of {volume} cm3 has a mass of {mass} g. What is its density?",
        density, [mass * volume, mass - volume, Fraction(volume, density),
                  density + 1], "g/cm3")
  return _number(
      f"A body has {density} g/cm3 and {volume} cm3. What is its mass?", mass,
      [Fraction(volume, density), density + volume, mass + volume, mass * 10],
      "g")


def _force(dice: draws.Dice) -> Item:
  mass, acceleration = dice.between(2, 50), dice.between(2, 12)
  return _number(
      f"What force gives {mass} kg an acceleration of {acceleration} m/s2?",
      mass * acceleration,
      [mass + acceleration, Fraction(mass, acceleration),
       mass * acceleration**2, Fraction(mass * acceleration, 2)], "N")


def _kinetic_energy(dice: draws.Dice) -> Item:
  mass, speed = 2 * dice.between(1, 20), dice.between(2, 12)
  energy = mass * speed**2 // 2
  return _number(
      f"What is the kinetic energy of {mass} kg at {speed} m/s?", energy,
      [energy * 2, mass * speed, Fraction(mass * speed, 2),
       mass**2 * speed], "J")


def _power(dice: draws.Dice) -> Item:
  power, time = dice.between(2, 90), dice.between(2, 30)
  return _number(
      f"A motor does {power * time} J of work in {time} s. What is its power?",
      power, [power * time**2, power * time - time, power * time, power + time],
      "W")


# Molar masses in g/mol, rounded as in school tables.
_ATOMS = {"H": 1, "C": 12, "N": 14, "O": 16, "Na": 23, "Mg": 24, "S": 32,
          "K": 39, "Ca": 40, "Fe": 56}
_COMPOUNDS = {
    "H2O": {"H": 2, "O": 1}, "CO2": {"C": 1, "O": 2}, "NH3": {"N": 1, "H": 3},
    "CH4": {"C": 1, "H": 4}, "NaOH": {"Na": 1, "O": 1, "H": 1},
    "H2SO4": {"H": 2, "S": 1, "O": 4}, "CaO": {"Ca": 1, "O": 1},
    "MgO": {"Mg": 1, "O": 1}, "SO2": {"S": 1, "O": 2},
    "C2H6": {"C": 2, "H": 6}, "KOH": {"K": 1, "O": 1, "H": 1},
    "HNO3": {"H": 1, "N": 1, "O": 3}, "CaCO3": {"Ca": 1, "C": 1, "O": 3},
    "Fe2O3": {"Fe": 2, "O": 3}, "C6H12O6": {"C": 6, "H": 12, "O": 6},
    "N2O": {"N": 2, "O": 1},
}


def _molar_mass(dice: draws.Dice) -> Item:
  formula = dice.pick(list(_COMPOUNDS))
  parts = _COMPOUNDS[formula]
  mass = sum(_ATOMS[atom] * count for atom, count in parts.items())
  n = dice.between(1, 12)
  given = ", ".join(f"{atom} {_ATOMS[atom]}" for atom in parts)
  once = sum(_ATOMS[atom] for atom in parts)  # forgets the counts
  return _number(
      f"What is the mass of {n} mol of {formula}? (g/mol: {given})", n * mass,
      [n * once, n * mass + 16, mass + n, n * mass + n, n * mass - 1], "g")


def _moles(dice: draws.Dice) -> Item:
  formula = dice.pick(list(_COMPOUNDS))
  mass = sum(_ATOMS[a] * count for a, count in _COMPOUNDS[formula].items())
  n = dice.between(2, 30)
  return _number(
      f"{formula} has {mass} g/mol. How many mol are {n * mass} g?", n,
      [n * mass - mass, n * mass * mass, n + 1, Fraction(n, 10)], "mol")


def _ph(dice: draws.Dice) -> Item:
  exponent, base = dice.between(1, 13), bool(dice.below(2))
  ion, value = ("OH-", 14 - exponent) if base else ("H+", exponent)
  return _number(
      f"A solution has 10^-{exponent} mol/L of {ion} at 25 C. What is its pH?",
      value, [14 - value, value + 1, value - 1, value + 7], "")


def _concentration(dice: draws.Dice) -> Item:
  molar, litres = dice.between(2, 12), dice.between(2, 25)
  return _number(
      f"{molar * litres} mol are dissolved in {litres} L. What is the"
      " concentration?", molar,
      [molar * litres**2, molar * litres - litres, litres, molar + 1], "mol/L")


def _neutrons(dice: draws.Dice) -> Item:
  protons = dice.between(3, 60)
  neutrons = protons + dice.between(0, protons // 2)
  return _number(
      f"An atom has atomic number {protons} and mass number"
      f" {protons + neutrons}. How many neutrons has it?", neutrons,
      [protons, protons + neutrons, 2 * protons + neutrons, neutrons + 1], "")


_PAIRS = {"A": "T", "T": "A", "G": "C", "C": "G"}


def _complement(dice: draws.Dice) -> Item:
  strand = "".join(dice.pick("ACGT") for _ in range(dice.between(4, 6)))
  rna = bool(dice.below(2))
  right = "".join(_PAIRS[base] for base in strand)
  swapped = str.maketrans("ACGT", "CATG")  # A with C, G with T
  wrong = [strand, strand.translate(swapped), right[::-1], strand[::-1],
           _PAIRS[right[0]] + right[1:], right[:-1] + _PAIRS[right[-1]]]
  if rna:
    right, wrong = _rna(right), [_rna(option) for option in wrong]
  wrong = [option for option in dict.fromkeys(wrong) if option != right]
  what = "mRNA is made from the DNA template" if rna else (
      "DNA bases pair with the bases")
  return Item(f"Which {what} {strand}, base by base?", right, wrong)


def _rna(strand: str) -> str:
  return strand.replace("T", "U")


def _codons(dice: draws.Dice) -> Item:
  acids = dice.between(3, 400)
  return _number(
      f"How many amino acids do {3 * acids} bases of coding RNA stand for,"
      " stop codons aside?", acids,
      [3 * acids, 9 * acids, acids + 3, Fraction(3 * acids, 2)], "")


def _chromosomes(dice: draws.Dice) -> Item:
  pairs = dice.between(3, 60)
  if dice.below(2):
    return _number(
        f"A body cell has {2 * pairs} chromosomes. How many has a gamete?",
        pairs, [2 * pairs, 4 * pairs, pairs + 2, Fraction(pairs, 2)], "")
  return _number(
      f"A gamete has {pairs} chromosomes. How many has a body cell?",
      2 * pairs, [pairs, 4 * pairs, 2 * pairs + 2, pairs**2], "")


def _magnification(dice: draws.Dice) -> Item:
  size, factor = dice.between(2, 60), dice.pick((40, 100, 400, 1000))
  return _number(
      f"A cell of {size} micrometres is seen at {factor}x. How long is its"
      " image?", Fraction(size * factor, 1000),
      [Fraction(size * factor, 100), Fraction(size, factor), size * factor,
       Fraction(size * factor, 10000)], "mm")


def _cross(dice: draws.Dice) -> Item:
  # Expected: n times each parent's share of recessive gametes; whole, since 4
  # divides n.
  first, second = dice.pick(("Aa", "aa")), dice.pick(("Aa", "aa"))
  n = 4 * dice.between(2, 60)
  share = math.prod(Fraction(parent.count("a"), 2)
                    for parent in (first, second))
  return _number(
      f"Of {n} offspring of {first} x {second}, how many are expected to be"
      " aa?", n * share, [n * Fraction(k, 4) for k in range(1, 5)], "")


Family = Callable[[draws.Dice], Item]

_FAMILIES: tuple[tuple[str, Family], ...] = (
    ("physics", _conversion), ("physics", _speed), ("physics", _ohm),
    ("physics", _density), ("physics", _force), ("physics", _kinetic_energy),
    ("physics", _power), ("chemistry", _molar_mass), ("chemistry", _moles),
    ("chemistry", _ph), ("chemistry", _concentration),
    ("chemistry", _neutrons), ("biology", _complement), ("biology", _codons),
    ("biology", _chromosomes), ("biology", _magnification),
    ("biology", _cross),
)
