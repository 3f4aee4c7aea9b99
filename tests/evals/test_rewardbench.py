"""RewardBench's scores by hand, on rows of our own in its formats."""

import json
import math

import numpy as np
import pytest

from r1jax.data.sources import rewardbench as data_lib
from r1jax.evals import rewardbench
from r1jax.evals.rewardbench import Scored


def row(subset, *scores, right=1, name="0"):
  return Scored(name, subset, np.array(scores, float), right)


def test_version_1_weighs_subsets_by_rows_and_mathematics_as_code():
  rows = [row("hep-cpp", 1, 0)] * 3 + [row("hep-go", 0, 1)] * 1
  rows += [row("math-prm", 0, 1)]  # one row, counts as four
  rows += [row("alpacaeval-easy", 2, 1), row("mt-bench-med", 1, 1)]
  found = rewardbench.first(rows)
  assert found["subsets"] == {
      "hep-cpp": 1, "hep-go": 0, "math-prm": 0, "alpacaeval-easy": 1,
      "mt-bench-med": 0}  # equal scores are wrong
  assert found["sections"] == {"Reasoning": 3 / 8, "Chat": 0.5}
  assert found["score"] == (3 / 8 + 0.5) / 2
  assert rewardbench.first([row("mine", 1, 0)])["score"] == 1


def test_version_2_is_best_of_four():
  rows = [row("Math", 3, 1, 2, 0), row("Math", 1, 3, 2, 0),
          row("Math", 2, 2, 1, 0), row("Focus", 0, 0, 0, 0)]
  found = rewardbench.second(rows)
  assert found["subsets"] == {"Math": 0.5, "Focus": 0.25}
  assert found["score"] == 0.375


def test_ties_by_hand():
  rows = [  # gap 1, spread 2; reference gap 4
      row("Ties", 5, 3, 2, right=2, name="tied:1"),
      row("Ties", 5, 1, name="ref:1"),
      # gap 2, spread 1; reference gap -1
      row("Ties", 4, 3, 1, right=2, name="tied:2"),
      row("Ties", 1, 2, name="ref:2")]
  want = (0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0
          + 0.01 * (math.tanh(1 / 2 - 1) + math.tanh(-1 / 1 - 1)) / 2)
  assert rewardbench.ties(rows) == pytest.approx(want)
  assert rewardbench.second(rows)["subsets"]["Ties"] == pytest.approx(want)
  with pytest.raises(ValueError, match="neither tied:N nor ref:N"):
    rewardbench.ties([row("Ties", 1, 0)])


FIRST = {"prompt": "Hi", "chosen": "Hello", "rejected": "No",
         "subset": "alpacaeval-easy", "id": 7, "chosen_model": "x"}
SECOND = {"id": "tied:3", "prompt": "Hi", "chosen": ["Hello", "Hey"],
          "rejected": ["No"], "subset": "Ties", "num_correct": 2}


def test_files_of_both_versions(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(json.dumps(FIRST) + "\n\n")
  version, (item,) = data_lib.read(path)
  assert (version, item.id, item.right) == (1, "7", 1)
  assert [c[-1]["content"] for c in item.conversations] == ["Hello", "No"]
  assert item.conversations[0][0] == {"role": "user", "content": "Hi"}
  path.write_text(json.dumps(SECOND))
  version, items = data_lib.read(path)
  assert (version, items[0].right, items[0].id) == (2, 2, "tied:3")
  assert len(data_lib.texts(items)) == 3
  for rows, message in (
      ([FIRST, SECOND], "mixes rows"), ([], "has no rows"),
      ([{"prompt": "Hi"}], "a.jsonl:1: it has no chosen, rejected, subset"),
      ([FIRST | {"chosen": 3}], "neither two strings nor two lists"),
      ([FIRST | {"prompt": []}], "neither a string nor a list")):
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=message):
      data_lib.read(path)
  with pytest.raises(ValueError, match="cannot be read"):
    data_lib.read(tmp_path / "none")
