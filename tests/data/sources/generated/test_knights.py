import itertools
import json
import re
from collections import Counter

import pytest

from r1jax.data.sources.generated import knights
from tests.data.sources.generated import cases


def _true(statement, knight):
  """An evaluator of its own: who is a knight, as a set of indices."""
  match statement:
    case ["is", i, role]:
      return (i in knight) is role
    case ["same", i, j]:
      return len({i, j} & knight) != 1
    case ["different", i, j]:
      return len({i, j} & knight) == 1
    case ["count", n]:
      return len(knight) == n
    case ["and", a, b]:
      return _true(a, knight) and _true(b, knight)
    case ["or", a, b]:
      return _true(a, knight) or _true(b, knight)
    case ["iff", a, b]:
      return _true(a, knight) is _true(b, knight)


def _worlds(statements):
  people = range(len(statements))
  for size in range(len(statements) + 1):
    for chosen in itertools.combinations(people, size):
      knight = set(chosen)
      if all(_true(s, knight) is (i in knight)
             for i, s in enumerate(statements)):
        yield knight


@pytest.mark.parametrize("split", knights.SPLITS)
def test_every_solution_is_unique_and_is_the_reference(split):
  for p in cases.rows("knights", split):
    (knight,) = _worlds(p.metadata["statements"])
    is_knight = {"en": "knight", "zh": "骑士"}[p.language]
    want = [p.reference[name]["role"] == is_knight
            for name in p.metadata["people"]]
    assert [i in knight for i in range(len(want))] == want
    assert list(p.reference) == p.metadata["people"]


def test_a_puzzle_with_two_solutions_is_seen():
  # Each calls the other a knight: both are, or neither is.
  statements = [["is", 1, True], ["is", 0, True]]
  assert knights.solutions(statements) == [(False, False), (True, True)]
  # "We are of different kinds", both say: it is a lie.
  statements = [["different", 0, 1], ["different", 1, 0]]
  assert knights.solutions(statements) == [(False, False)]


def test_levels_languages_and_roles():
  train = cases.rows("knights", "train")
  assert Counter(p.language for p in train) == {"en": 1000, "zh": 1000}
  assert all((p.language == "zh") == (p.id % 2 == 1) for p in train)
  levels = Counter((p.language, p.metadata["level"]) for p in train)
  assert len(levels) == 6 and min(levels.values()) > 300
  assert {p.metadata["level"] for p in cases.rows("knights", "hard")} == {5}
  roles = Counter(
      cell["role"] for p in train for cell in p.reference.values())
  for role, other in (("knight", "knave"), ("骑士", "无赖")):
    assert 0.3 < roles[role] / (roles[role] + roles[other]) < 0.7


def test_splits_share_no_puzzle_under_other_names():
  seen = {}
  for split in knights.SPLITS:
    for p in cases.rows("knights", split):
      key = json.dumps(p.metadata["statements"])
      assert seen.setdefault(key, split) == split


def test_wording_follows_the_statements():
  kinds = set()
  for p in cases.rows("knights", "test"):
    names, said = p.metadata["people"], p.question.split("\n")[1:-1]
    for i, (line, statement) in enumerate(
        zip(said, p.metadata["statements"], strict=True)):
      kinds.add(statement[0])
      assert line.startswith(names[i])
      speech = re.search("[\"“](.*)[\"”]", line).group(1)
      mentioned = {j for j, name in enumerate(names) if name in speech}
      if re.search(r"\bI\b|我(?!们)", speech):
        mentioned.add(i)
      parts = [statement]
      if statement[0] in ("and", "or", "iff"):
        parts = statement[1:]
      people = {j for part in parts if part[0] != "count"
                for j in part[1:] if not isinstance(j, bool)}
      assert mentioned == people
  assert kinds == {"is", "same", "different", "count", "and", "or", "iff"}


def test_verifier():
  from r1jax.rewards.logic import verdicts

  for p in [*cases.rows("knights", "test")[:40],
            *cases.rows("knights", "hard")[:10]]:
    colon = "：" if p.language == "zh" else ": "
    roles = {name: cell["role"] for name, cell in p.reference.items()}
    lines = [f"{name}{colon}{role}" for name, role in roles.items()]
    assert verdicts.grid(p, cases.respond("\n".join(lines))).value == 1
    as_json = json.dumps(p.reference, ensure_ascii=False)
    assert verdicts.grid(p, cases.respond(as_json)).value == 1
    both = ("骑士", "无赖") if p.language == "zh" else ("knight", "knave")
    name, role = next(iter(roles.items()))
    other = both[role == both[0]]
    wrong = [f"{name}{colon}{other}", *lines[1:]]
    assert verdicts.grid(p, cases.respond("\n".join(wrong))).value == 0
    assert verdicts.grid(p, cases.respond("\n".join(lines[1:]))).value == 0
