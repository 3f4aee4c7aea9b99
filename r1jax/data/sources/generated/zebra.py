"""Zebra puzzles: which house in a row has which color, pet, drink, ...

The clues of every puzzle fit exactly one table, and no clue can be left out.
An exact solver checks both. It assigns each attribute a permutation of its
values over the houses; since a clue is about at most two values, the
permutations of a second attribute that a permutation of the first allows are a
bit set.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws

SPLITS = {"train": 2000, "validation": 128, "test": 128, "hard": 64}
# (houses, attributes), row by row in turn.
_SIZES = {"train": ((3, 3), (3, 4), (4, 3)),
          "validation": ((3, 3), (3, 4), (4, 3)),
          "test": ((3, 3), (3, 4), (4, 3)),
          "hard": ((4, 4), (5, 3), (5, 4))}

_VALUES = {
    "color": ("red", "green", "blue", "white", "yellow", "black"),
    "pet": ("cat", "dog", "fish", "bird", "horse", "zebra"),
    "drink": ("tea", "milk", "coffee", "juice", "water", "cocoa"),
    "sport": ("tennis", "golf", "chess", "rugby", "judo", "hockey"),
    "music": ("piano", "violin", "flute", "drums", "harp", "cello"),
}
_HOUSE = {
    "color": "the {} house",
    "pet": "the {} owner's house",
    "drink": "the {} drinker's house",
    "sport": "the {} player's house",
    "music": "the house with the {}",
}
# JSON-ready: [kind, value, value or house number]. The two values may be of the
# same attribute; houses are numbered from 1.
Clue = Sequence
_CLUES = {
    "same": "{} is {}.",
    "left": "{} is somewhere to the left of {}.",
    "next": "{} is directly next to {}.",
    "at": "{} is house {}.",
    "not_at": "{} is not house {}.",
}
# Positions reveal much, so they are drawn less often than relations.
_WEIGHTS = {"same": 3, "left": 3, "next": 3, "at": 1, "not_at": 2}


def prompts(split: str) -> Iterator[Prompt]:
  """3 or 4 houses with 3 or 4 attributes; up to 5 houses with 4 in "hard".

  No table is in two splits. metadata: houses, attributes (name -> values in
  alphabetical order), clues (as `Clue`).

  Raises:
    ValueError: no such split.
  """
  return draws.distinct("zebra", SPLITS, split, _prompt)


def allowed(kind: str, first: int, second: int) -> bool:
  """Whether a clue of this kind permits two houses.

  Args:
    kind: of the clue.
    first: the house of its first value.
    second: the house of its second value; for at and not_at the clue's house.
  """
  return {"same": first == second, "left": first < second,
          "next": abs(first - second) == 1, "at": first == second,
          "not_at": first != second}[kind]


@functools.cache
def _orders(houses: int) -> tuple[tuple[int, ...], ...]:
  """All permutations `order`: value i of an attribute is in house order[i]."""
  return tuple(itertools.permutations(range(houses)))


@functools.cache
def _at(houses: int, value: int, house: int) -> int:
  """Bit set of the `_orders` that put a value in a house."""
  return sum(1 << bit for bit, order in enumerate(_orders(houses))
             if order[value] == house)


def solutions(
    grid: Sequence[Sequence[str]], clues: Sequence[Clue], limit: int = 2
) -> list[tuple[tuple[int, ...], ...]]:
  """The first `limit` tables that fit the clues.

  Args:
    grid: each attribute's values; all values are different.
    clues: about these values.
    limit: the most tables to find; 2 suffice to tell if one is unique.

  Returns:
    For each table, for each attribute, the houses (from 0) of its values.
  """
  houses = len(grid[0])
  orders = _orders(houses)
  place = {value: (row, i) for row, values in enumerate(grid)
           for i, value in enumerate(values)}
  free = [(1 << len(orders)) - 1] * len(grid)
  # For attributes a < b: (kind, value of a, value of b, whether the clue names
  # b's value first).
  between = {pair: [] for pair in itertools.combinations(range(len(grid)), 2)}
  for kind, first, second in clues:
    row, i = place[first]
    if kind in ("at", "not_at"):
      free[row] &= sum(
          1 << bit for bit, order in enumerate(orders)
          if allowed(kind, order[i], second - 1))
    elif place[second][0] == row:
      j = place[second][1]
      free[row] &= sum(
          1 << bit for bit, order in enumerate(orders)
          if allowed(kind, order[i], order[j]))
    elif row < place[second][0]:
      between[row, place[second][0]].append((kind, i, place[second][1], False))
    else:
      between[place[second][0], row].append((kind, place[second][1], i, True))
  return list(itertools.islice(_search(orders, free, between, ()), limit))


def _search(orders, free, between, chosen):
  """Tables that begin with `chosen`, the orders of the first attributes."""
  depth = len(chosen)
  if depth == len(free):
    yield chosen
    return
  houses = len(orders[0])
  for bit, order in enumerate(orders):
    if not free[depth] >> bit & 1:
      continue
    left = list(free)
    for other in range(depth + 1, len(free)):
      for kind, i, j, swapped in between[depth, other]:
        mask = 0
        for house in range(houses):
          pair = (house, order[i]) if swapped else (order[i], house)
          if allowed(kind, *pair):
            mask |= _at(houses, j, house)
        left[other] &= mask
    if all(left[depth + 1:]):
      yield from _search(orders, left, between, (*chosen, order))


def minimal(
    dice: draws.Dice, grid: Sequence[Sequence[str]],
    truth: tuple[tuple[int, ...], ...]
) -> list[list]:
  """A minimal set of clues that only the table `truth` fits.

  Without any one of them, another table fits too.

  Args:
    dice: draws the clues.
    grid: each attribute's values.
    truth: for each attribute, the houses (from 0) of its values.
  """
  pool = _true_clues(grid, truth)
  by_kind = {kind: dice.shuffled([c for c in pool if c[0] == kind])
             for kind in _CLUES}
  bag = [kind for kind, weight in _WEIGHTS.items() for _ in range(weight)]
  clues: list[list] = []
  while len(solutions(grid, clues)) != 1:
    # Two at a time saves solver calls; superfluous clues are removed below.
    for _ in range(2):
      kind = dice.pick([kind for kind in bag if by_kind[kind]])
      clues.append(by_kind[kind].pop())
  for clue in list(clues):
    fewer = [other for other in clues if other is not clue]
    if len(solutions(grid, fewer)) == 1:
      clues = fewer
  return clues


def _true_clues(grid, truth) -> list[list]:
  houses = range(len(grid[0]))
  place = {value: (row, house) for row, values in enumerate(grid)
           for value, house in zip(values, truth[row])}
  clues = []
  for first, (row, house) in place.items():
    clues += [["at" if house == h else "not_at", first, h + 1] for h in houses]
    for second, (other_row, other) in place.items():
      if first == second:
        continue
      if house < other:
        clues.append(["left", first, second])
      # Symmetric clues: one of the two orders is enough.
      if first < second and abs(house - other) == 1:
        clues.append(["next", first, second])
      if row < other_row and house == other:
        clues.append(["same", first, second])
  return clues


def _prompt(dice: draws.Dice, split: str, index: int) -> Prompt | None:
  houses, attributes = _SIZES[split][index % len(_SIZES[split])]
  names = dice.sample(list(_VALUES), attributes)
  grid = [sorted(dice.sample(_VALUES[name], houses)) for name in names]
  truth = tuple(dice.pick(_orders(houses)) for _ in names)
  table = [dict(sorted(
      (name, values[order.index(house)])
      for name, values, order in zip(names, grid, truth)))
      for house in range(houses)]
  if split != "hard" and draws.share(table) != split:
    return None
  clues = minimal(dice, grid, truth)
  kinds = dict(zip(names, grid))
  return Prompt(
      id=index, domain="logic", source="zebra",
      messages=ask(_question(houses, kinds, clues)),
      reference={f"House {house + 1}": {name: table[house][name]
                                        for name in names}
                 for house in range(houses)},
      verifier="grid",
      metadata={"houses": houses, "attributes": kinds, "clues": clues})


def _question(houses: int, kinds: dict[str, list[str]], clues) -> str:
  phrase = {value: _HOUSE[name].format(value)
            for name, values in kinds.items() for value in values}
  lines = [f"{houses} houses stand in a row, numbered 1 to {houses} from left"
           " to right. They differ in:"]
  lines += [f"{name}: {', '.join(values)}" for name, values in kinds.items()]
  for kind, first, second in clues:
    text = _CLUES[kind].format(phrase[first], phrase.get(second, second))
    lines.append(f"- {text[0].upper()}{text[1:]}")
  example = ", ".join(f"\"{name}\": \"...\"" for name in kinds)
  lines.append(f"Answer as JSON: {{\"House 1\": {{{example}}}, ...}}")
  return "\n".join(lines)
