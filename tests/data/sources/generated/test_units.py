import re
from collections import Counter, defaultdict
from fractions import Fraction

from r1jax.data.sources.generated import draws, units
from tests.data.sources.generated import cases


def _numbers(text):
  return [Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", text)]


# family: what solves its stem, from the numbers in it; where a family asks two
# ways round, a word of the stem tells which.
_PAIR = {"A": "T", "T": "A", "G": "C", "C": "G"}
_MASS = {"H2O": 18, "CO2": 44, "NH3": 17, "CH4": 16, "NaOH": 40, "H2SO4": 98,
         "CaO": 56, "MgO": 40, "SO2": 64, "C2H6": 30, "KOH": 56, "HNO3": 63,
         "CaCO3": 100, "Fe2O3": 160, "C6H12O6": 180, "N2O": 44}
_SMALLER = {
    "km m": 1000, "m cm": 100, "cm mm": 10, "kg g": 1000, "t kg": 1000,
    "L mL": 1000, "h min": 60, "min s": 60, "kJ J": 1000, "MPa kPa": 1000,
    "kHz Hz": 1000, "days h": 24, "g mg": 1000, "V mV": 1000}


def _solve(family, stem):
  n = _numbers(stem)
  if family == "conversion":
    to, amount, unit = re.fullmatch(
        r"How many (\w+) are (\d+) (\w+)\?", stem).groups()
    if factor := _SMALLER.get(f"{unit} {to}"):
      return int(amount) * factor
    return Fraction(int(amount), _SMALLER[f"{to} {unit}"])
  if family == "speed":
    return n[0] / n[1] if "covers" in stem else n[0] * n[1]
  if family == "ohm":
    return n[0] * n[1] if "current of" in stem else n[0] / n[1]
  if family == "density":
    n = _numbers(re.sub(r"cm3", "cm", stem))
    return n[1] / n[0] if "What is its density" in stem else n[0] * n[1]
  if family == "force":
    return n[0] * n[1]
  if family == "kinetic_energy":
    return n[0] * n[1] ** 2 / 2
  if family in ("power", "concentration"):
    return n[0] / n[1]
  if family == "molar_mass":
    amount, formula = re.search(r"(\d+) mol of (\w+)", stem).groups()
    return int(amount) * _MASS[formula]
  if family == "moles":
    formula, mass, total = re.fullmatch(
        r"(\w+) has (\d+) g/mol\. How many mol are (\d+) g\?", stem).groups()
    assert _MASS[formula] == int(mass)
    return Fraction(int(total), int(mass))
  if family == "ph":
    exponent = int(re.search(r"10\^-(\d+)", stem).group(1))
    return 14 - exponent if "OH-" in stem else exponent
  if family == "neutrons":
    return n[1] - n[0]
  if family == "complement":
    strand = re.search(r"\b([ACGT]{4,6}),", stem).group(1)
    other = "".join(_PAIR[base] for base in strand)
    return other.replace("T", "U") if "mRNA" in stem else other
  if family == "codons":
    return n[0] / 3
  if family == "chromosomes":
    return n[0] / 2 if "has a gamete" in stem else n[0] * 2
  if family == "magnification":
    return n[0] * n[1] / 1000
  if family == "cross":
    recessive = {"Aa": Fraction(1, 2), "aa": Fraction(1)}
    first, second = re.search("of (..) x (..),", stem).groups()
    return n[0] * recessive[first] * recessive[second]
  raise AssertionError(family)


def _value(option, family):
  return option if family == "complement" else _numbers(option)[0]


def test_answers_against_a_solver_of_the_stems():
  families = defaultdict(Counter)
  for split in units.SPLITS:
    for p in cases.rows("units", split):
      family = p.metadata["family"]
      families[p.metadata["subject"]][family] += 1
      values = {letter: _value(option, family)
                for letter, option in p.reference["options"].items()}
      assert list(values) == list("ABCD")
      # Different as numbers, not merely as texts.
      assert len(set(values.values())) == 4
      right = _solve(family, p.question.split("\n")[0])
      assert values[p.reference["answer"]] == right, p.question
      for letter, option in p.reference["options"].items():
        assert f"{letter}) {option}" in p.question
      assert len(p.question) <= 160
  assert set(families) == {"physics", "chemistry", "biology"}
  assert sum(map(len, families.values())) == 17
  assert min(n for counts in families.values() for n in counts.values()) > 50


def test_the_right_letter_is_drawn_evenly():
  letters = Counter(p.reference["answer"]
                    for p in cases.rows("units", "train"))
  assert all(abs(letters[c] - 500) < 100 for c in "ABCD")  # 5 sigma


def test_splits_share_no_stem():
  seen = {}
  for split in units.SPLITS:
    for p in cases.rows("units", split):
      stem = p.question.split("\n")[0]
      assert seen.setdefault(stem, split) == split


def test_no_family_runs_out_of_wrong_options():
  for _, family in units._FAMILIES:
    for seed in range(300):
      item = family(draws.Dice("wrong", seed))
      assert len(set(item.wrong)) == len(item.wrong) >= 3
      assert item.right not in item.wrong


def test_verifier():
  from r1jax.rewards.answers import choice

  for p in cases.rows("units", "test"):
    right = p.reference["answer"]
    for form in (right, f"({right})", f"The answer is {right}.",
                 f"\\boxed{{{right}}}"):
      assert choice.verify(p, cases.respond(form)).value == 1
    for letter in set("ABCD") - {right}:
      assert choice.verify(p, cases.respond(letter)).value == 0
    assert choice.verify(p, cases.respond("A, B, C, D")).value == 0
