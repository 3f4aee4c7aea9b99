import re

import pytest

from r1jax.data.sources import arithmetic


def _evaluate(text):
  left, sign, right, result = re.fullmatch(
      r"(\d+)([+-])(\d+)=(\d+)", text).groups()
  value = int(left) + (int(right) if sign == "+" else -int(right))
  return int(left), value, int(result)


@pytest.mark.parametrize("level", [1, 3, 6, 8])
def test_problems_keep_their_bounds_and_steps_are_right(level):
  for index in range(300):
    p = arithmetic.problem(7, index, level)
    assert p.level == level
    total = p.start
    equations = arithmetic.steps(p).split(" ")
    assert len(equations) == level
    for delta, equation in zip(p.deltas, equations):
      assert 1 <= abs(delta) <= 20
      left, value, result = _evaluate(equation)
      assert left == total and value == result
      total += delta
      assert total == result and 0 <= total <= 99
    assert p.answer == total


def test_wording_states_the_operands_in_order():
  kinds = set()
  for index in range(200):
    p = arithmetic.problem(0, index, 5)
    kinds.add(p.kind)
    numbers = [int(n) for n in re.findall(r"\d+", p.question)]
    assert numbers == [p.start, *map(abs, p.deltas)]
  assert kinds == {"numbers", "story"}


def test_problem_is_a_function_of_its_address():
  first = [arithmetic.problem(1, i, 4) for i in range(50)]
  again = [arithmetic.problem(1, i, 4) for i in reversed(range(50))]
  assert first == again[::-1]
  assert first != [arithmetic.problem(2, i, 4) for i in range(50)]
  assert len({(p.start, p.deltas) for p in first}) > 45


def test_splits_share_no_problem():
  seen = {}
  for split in arithmetic.LEVELS:
    for p in arithmetic.examples(split, 800):
      key = (p.start, p.deltas)
      assert seen.setdefault(key, split) == split
      assert p.level in arithmetic.LEVELS[split]
  assert len(seen) == 4 * 800


def test_split_ignores_the_wording():
  for index in range(100):
    p = arithmetic.problem(0, index, 3)
    other = p._replace(question="Another wording", kind="story")
    assert arithmetic.split_of(p) == arithmetic.split_of(other)


def test_split_shares():
  problems = [arithmetic.problem(3, i, 3 + i % 4) for i in range(8000)]
  splits = [arithmetic.split_of(p) for p in problems]
  # Binomial standard deviation is 0.0024 at 5 %.
  assert abs(splits.count("test") / 8000 - 0.05) < 0.01
  assert abs(splits.count("validation") / 8000 - 0.05) < 0.01


def test_train_problems_are_frozen():
  """Changing these means a new VERSION of the arithmetic builder."""
  first = [p.question for p in arithmetic.examples("train", 3)]
  assert first == GOLDEN
  p = arithmetic.Problem(17, (15, -8, 4), "", "numbers")
  assert arithmetic.steps(p) == "17+15=32 32-8=24 24+4=28"


def test_bad_addresses():
  with pytest.raises(ValueError, match="level=0"):
    arithmetic.problem(0, 0, 0)
  with pytest.raises(ValueError, match="seed=-1"):
    arithmetic.problem(-1, 0, 3)
  with pytest.raises(ValueError, match="choose from train"):
    arithmetic.examples("tset", 1)


GOLDEN = [
    "A bus has 25 people. It picks up 1. It drops off 3. It picks up 2 "
    "more. How many people are left?",
    "A box holds 22 books. Dan adds 8 more. Dan puts in 2. Dan takes 1 "
    "away. Dan puts in 4. How many books are in the box?",
    "Work out 81 + 9 + 9 - 6 - 7 - 2.",
]
