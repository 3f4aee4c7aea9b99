from __future__ import annotations

import numpy as np
import pytest

from r1jax.core.types import Prompt, Rollout
from r1jax.rewards import combine
from r1jax.rewards.score import Score


def score(accuracy, format, valid=True):
  return {"accuracy": Score(accuracy, valid, ""),
          "format": Score(format, True, "")}


ROWS = [[score(1, 1), score(0, 1), score(1, 0)],
        [score(0, 0), score(0.5, 1), score(9, 1, valid=False)]]


def test_sum():
  parts, rewards_QG, valid_QG = combine.combine(
      combine.Combine(weights={"accuracy": 2.0, "format": 0.5}), ROWS)
  np.testing.assert_array_equal(rewards_QG, [[2.5, .5, 2], [0, 1.5, .5]])
  np.testing.assert_array_equal(parts["accuracy"], [[1, 0, 1], [0, .5, 0]])
  np.testing.assert_array_equal(parts["format"], [[1, 1, 0], [0, 1, 1]])
  np.testing.assert_array_equal(valid_QG, [[1, 1, 1], [1, 1, 0]])
  assert {a.dtype for a in parts.values()} == {rewards_QG.dtype}
  assert (rewards_QG.dtype, valid_QG.dtype) == (np.float32, bool)


def test_r1_zero_weighs_both_alike():
  assert combine.Combine().weights == {"accuracy": 1.0, "format": 1.0}


def test_weight_zero_logs_only():
  parts, rewards_QG, _ = combine.combine(
      combine.Combine(weights={"accuracy": 1.0, "format": 0.0}), ROWS)
  np.testing.assert_array_equal(rewards_QG, parts["accuracy"])
  assert parts["format"].any()


@pytest.mark.parametrize("weights,message", [
    ({}, "empty"), ({"accuracy": float("nan")}, "finite")])
def test_bad_weights(weights, message):
  with pytest.raises(ValueError, match=message):
    combine.Combine(weights=weights)


@pytest.mark.parametrize("names", [
    ["accuracy"], ["accuracy", "format", "language"]])
def test_rules_and_weights_differ(names):
  config = combine.Combine(weights=dict.fromkeys(names, 1.0))
  with pytest.raises(ValueError, match="weighted rules"):
    combine.combine(config, ROWS)


def test_samples_differ():
  with pytest.raises(ValueError, match="differ"):
    combine.combine(combine.Combine(), [ROWS[0], ROWS[1][:2]])


def test_scored_keeps_the_order_of_items():
  prompts = [Prompt(id=i, domain="", source="", question="", reference="")
             for i in range(2)]
  texts = [["a", "b", "c"], ["d", "e", "f"]]
  items = combine.items(prompts, ["T", "U"], texts)
  assert [(p.id, tail, text) for p, tail, text in items] == [
      (0, "T", "a"), (0, "T", "b"), (0, "T", "c"),
      (1, "U", "d"), (1, "U", "e"), (1, "U", "f")]
  rollout = Rollout(
      prompt_tokens=(), prompt_ids_Q=np.arange(2), lengths_QG=np.ones((2, 3)),
      tokens_QGT=np.ones((2, 3, 1)), truncated_QG=np.zeros((2, 3), bool),
      logprobs_QGT=np.zeros((2, 3, 1)))
  flat = [s for row in ROWS for s in row]
  got = combine.scored(combine.Combine(), rollout, prompts, texts, flat)
  np.testing.assert_array_equal(got.rewards_QG, [[2, 1, 1], [0, 1.5, 1]])
  assert got.texts == (("a", "b", "c"), ("d", "e", "f"))
  assert got.prompts == tuple(prompts)
  with pytest.raises(ValueError, match="5 verdicts for 6 texts"):
    combine.scored(combine.Combine(), rollout, prompts, texts, flat[:5])
