import itertools
import json

import pytest

from r1jax.data.sources.generated import draws, zebra
from tests.data.sources.generated import cases


def _fits(table, clue):
  """By the words: `table` gives each value's house from 1."""
  match clue:
    case ["same", a, b]:
      return table[a] == table[b]
    case ["left", a, b]:
      return table[a] < table[b]
    case ["next", a, b]:
      return table[a] - table[b] in (1, -1)
    case ["at", a, house]:
      return table[a] == house
    case ["not_at", a, house]:
      return table[a] != house


def _tables(attributes):
  """Every table: value to house, one by one."""
  houses = range(1, len(next(iter(attributes.values()))) + 1)
  for places in itertools.product(
      itertools.permutations(houses), repeat=len(attributes)):
    yield {value: house
           for values, order in zip(attributes.values(), places)
           for value, house in zip(values, order)}


def _table_of(prompt):
  return {value: int(house.removeprefix("House "))
          for house, cells in prompt.reference.items()
          for value in cells.values()}


def _prove(prompt):
  attributes, clues = prompt.metadata["attributes"], prompt.metadata["clues"]
  # How many clues each table misses; 0 by one only, and each clue is the only
  # one that some table misses, so none can go.
  fit, needed = [], set()
  for table in _tables(attributes):
    missed = [i for i, clue in enumerate(clues) if not _fits(table, clue)]
    if not missed:
      fit.append(table)
    if len(missed) == 1:
      needed.add(missed[0])
  assert fit == [_table_of(prompt)]
  assert needed == set(range(len(clues)))


def test_brute_force_finds_one_table_and_no_spare_clue():
  rows = [*cases.rows("zebra", "test"), *cases.rows("zebra", "train")[:100]]
  small = [p for p in rows if len(p.metadata["attributes"]) == 3
           and p.metadata["houses"] == 3]
  middle = [p for p in rows if len(p.metadata["attributes"]) == 4]
  large = [p for p in rows if p.metadata["houses"] == 4]
  for p in [*small, *middle[:30], *large[:4]]:
    _prove(p)


@pytest.mark.slow
def test_brute_force_on_hard_puzzles():
  rows = cases.rows("zebra", "hard")
  for houses, attributes in ((4, 4), (5, 3)):
    _prove(next(p for p in rows if p.metadata["houses"] == houses
                and len(p.metadata["attributes"]) == attributes))


@pytest.mark.parametrize("split", zebra.SPLITS)
def test_the_reference_fits_every_clue(split):
  for p in cases.rows("zebra", split):
    table = _table_of(p)
    assert all(_fits(table, clue) for clue in p.metadata["clues"])
    assert sorted(table) == sorted(
        sum(p.metadata["attributes"].values(), []))


def test_solver_agrees_with_brute_force_on_loose_clues():
  grid = [["a", "b", "c"], ["x", "y", "z"]]
  attributes = {"first": grid[0], "second": grid[1]}
  for seed in range(60):
    dice = draws.Dice("loose", seed)
    clues = []
    for _ in range(dice.between(0, 3)):
      first, second = dice.sample("abcxyz", 2)
      kind = dice.pick(("same", "left", "next", "at", "not_at"))
      clues.append([kind, first, dice.between(1, 3)] if "at" in kind
                   else [kind, first, second])
    want = sum(all(_fits(table, clue) for clue in clues)
               for table in _tables(attributes))
    assert len(zebra.solutions(grid, clues, limit=36)) == want
    assert len(zebra.solutions(grid, clues)) == min(want, 2)


def test_sizes_and_clue_types():
  sizes, kinds = {}, set()
  for split in zebra.SPLITS:
    for p in cases.rows("zebra", split):
      size = p.metadata["houses"], len(p.metadata["attributes"])
      sizes.setdefault(split, set()).add(size)
      kinds |= {clue[0] for clue in p.metadata["clues"]}
  assert sizes["train"] == sizes["test"] == {(3, 3), (3, 4), (4, 3)}
  assert sizes["hard"] == {(4, 4), (5, 3), (5, 4)}
  assert kinds == {"same", "left", "next", "at", "not_at"}


def test_splits_share_no_table():
  seen = {}
  for split in zebra.SPLITS:
    for p in cases.rows("zebra", split):
      key = json.dumps([sorted(cells.items())
                        for cells in p.reference.values()])
      assert seen.setdefault(key, split) == split


def test_question_has_a_line_for_each_clue():
  for p in cases.rows("zebra", "validation")[:30]:
    lines = [line for line in p.question.split("\n") if line[:2] == "- "]
    for line, clue in zip(lines, p.metadata["clues"], strict=True):
      said = [str(part) for part in clue[1:]]
      # In the order of the clue: left is not symmetric.
      places = [line.lower().index(word) for word in said]
      assert places == sorted(places)


def test_verifier():
  from r1jax.rewards.logic import verdicts

  for p in [*cases.rows("zebra", "test")[:20],
            *cases.rows("zebra", "hard")[:6]]:
    assert verdicts.grid(p, cases.respond(json.dumps(p.reference))).value == 1
    houses = list(p.reference)
    swapped = {**p.reference, houses[0]: p.reference[houses[1]],
               houses[1]: p.reference[houses[0]]}
    assert verdicts.grid(p, cases.respond(json.dumps(swapped))).value == 0
    less = {house: p.reference[house] for house in houses[1:]}
    assert verdicts.grid(p, cases.respond(json.dumps(less))).value == 0
