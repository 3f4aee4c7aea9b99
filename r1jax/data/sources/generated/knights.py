"""Knights-and-knaves puzzles in English and Chinese.

Each person makes one statement; a knight's is true, a knave's false. All 2^n
assignments of roles are tried, and a puzzle is kept only if exactly one fits
its statements. Even rows are English, odd rows Chinese.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws

SPLITS = {"train": 2000, "validation": 128, "test": 128, "hard": 128}
_PEOPLE = {"train": (2, 3, 4), "validation": (2, 3, 4), "test": (2, 3, 4),
           "hard": (5,)}

# JSON-ready lists: ["is", person, whether a knight]; ["same" or "different",
# person, person]; ["count", n] for "exactly n are knights"; ["and", "or" or
# "iff", an "is" statement, an "is" statement]. Persons are indices.
Statement = Sequence

_NAMES = {
    "en": ("Ava", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ines",
           "Jon", "Kim", "Leo", "Mia", "Noah", "Olga", "Zoey"),
    "zh": ("小明", "小红", "小刚", "小芳", "小军", "小丽", "小强", "小燕",
           "小龙", "小梅", "小亮", "小雪"),
}
_SELF = {"en": "I", "zh": "我"}
_ROLES = {"en": ("knave", "knight"), "zh": ("无赖", "骑士")}
_QUESTION = {
    "en": ("Knights always tell the truth and knaves always lie.{}\nWho is"
           " what? Answer one line per person, as \"name: knight\" or"
           " \"name: knave\"."),
    "zh": ("骑士只说真话，无赖只说假话。{}\n每个人是骑士还是无赖？每人一行"
           "作答，写成“姓名：骑士”或“姓名：无赖”。"),
}
_SAYS = {"en": "\n{} says: \"{}.\"", "zh": "\n{}说：“{}。”"}
_JOINED = {
    "en": {"and": "{} and {}", "or": "{} or {}",
           "iff": "{} if and only if {}"},
    "zh": {"and": "{}，而且{}", "or": "{}，或者{}",
           "iff": "当且仅当{1}时，{0}"},
}


def prompts(split: str) -> Iterator[Prompt]:
  """Puzzles of 2-4 people; 5 in the split "hard".

  No list of statements is in two splits, whatever the names. metadata: level
  (the number of people), people (their names), statements (one per person, as
  `Statement`).

  Raises:
    ValueError: no such split.
  """
  return draws.distinct("knights", SPLITS, split, _prompt)


def holds(statement: Statement, knights: Sequence[bool]) -> bool:
  """Whether a statement is true; `knights` says for each person if a knight."""
  kind, *rest = statement
  if kind == "is":
    return knights[rest[0]] == rest[1]
  if kind in ("same", "different"):
    return (knights[rest[0]] == knights[rest[1]]) == (kind == "same")
  if kind == "count":
    return sum(knights) == rest[0]
  first, second = (holds(part, knights) for part in rest)
  return {"and": first and second, "or": first or second,
          "iff": first == second}[kind]


def solutions(statements: Sequence[Statement]) -> list[tuple[bool, ...]]:
  """All assignments of the 2^n that fit: for each person, whether a knight."""
  return [
      knights
      for knights in itertools.product((False, True), repeat=len(statements))
      if all(holds(s, knights) == k for s, k in zip(statements, knights))]


def _prompt(dice: draws.Dice, split: str, index: int) -> Prompt | None:
  # The language alternates every row, the level every second row.
  levels, language = _PEOPLE[split], ("en", "zh")[index % 2]
  people = levels[index // 2 % len(levels)]
  statements = [_statement(dice, speaker, people) for speaker in range(people)]
  if split != "hard" and draws.share(statements) != split:
    return None
  answers = solutions(statements)
  if len(answers) != 1:
    return None
  names = dice.sample(_NAMES[language], people)
  said = "".join(
      _SAYS[language].format(name, _sentence(language, statement, names, i))
      for i, (name, statement) in enumerate(zip(names, statements)))
  return Prompt(
      id=index, domain="logic", source="knights",
      messages=ask(_QUESTION[language].format(said)),
      reference={name: {"role": _ROLES[language][knight]}
                 for name, knight in zip(names, answers[0])},
      verifier="grid", language=language,
      metadata={"level": people, "people": names, "statements": statements})


def _statement(dice: draws.Dice, speaker: int, people: int) -> list:
  others = [person for person in range(people) if person != speaker]
  kind = dice.pick(
      ("is", "is", "same", "different", "count", "and", "or", "iff"))
  if kind == "is":  # of oneself it would be no information or a paradox
    return ["is", dice.pick(others), bool(dice.below(2))]
  if kind == "count":
    return ["count", dice.between(0, people)]
  # Sorted, so that "Ben and Eva" and "Eva and Ben" are the same statement.
  pair = sorted(dice.sample(range(people), 2))
  if kind in ("same", "different"):
    return [kind, *pair]
  return [kind, *(["is", person, bool(dice.below(2))] for person in pair)]


def _sentence(
    language: str, statement: Statement, names: Sequence[str], speaker: int
) -> str:
  kind, *rest = statement
  who = [_SELF[language] if i == speaker else name
         for i, name in enumerate(names)]
  if kind == "is":
    role = _ROLES[language][rest[1]]
    if language == "zh":
      return f"{who[rest[0]]}是{role}"
    return f"{who[rest[0]]} {'am' if rest[0] == speaker else 'is'} a {role}"
  if kind in ("same", "different"):
    # The speaker comes last: "Ben and I".
    first, second = sorted(rest, key=lambda i: i == speaker)
    if language == "zh":
      not_ = "" if kind == "same" else "不"
      return f"{who[first]}和{who[second]}{not_}是同一类人"
    what = "the same kind" if kind == "same" else "different kinds"
    return f"{who[first]} and {who[second]} are of {what}"
  if kind == "count":
    if language == "zh":
      return f"我们当中恰好有{rest[0]}个骑士"
    return f"Exactly {rest[0]} of us {'is' if rest[0] == 1 else 'are'}" + (
        " a knight" if rest[0] == 1 else " knights")
  return _JOINED[language][kind].format(
      *(_sentence(language, part, names, speaker) for part in rest))
