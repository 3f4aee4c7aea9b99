from __future__ import annotations

import math

import numpy as np
import pytest

from r1jax.core import config as configs
from r1jax.core.prompt import Prompt, ask
from r1jax.core.types import Rollout
from r1jax.rewards import combine
from r1jax.rewards.score import Score


def prompt(i, domain="math"):
  return Prompt(id=i, domain=domain, source="", messages=ask("?"),
                reference="", verifier="")


def score(valid=True, **values):
  return {name: Score(value, valid, f"{name} {value}")
          for name, value in values.items()}


PROMPTS = [prompt(5), prompt(6)]
ROWS = [[score(accuracy=1, format=1), score(accuracy=0, format=1),
         score(accuracy=1, format=0)],
        [score(accuracy=0, format=0), score(accuracy=.5, format=1),
         score(False, accuracy=9) | score(format=1)]]


def test_sum():
  parts, rewards_QG, valid_QG = combine.combine(
      combine.Combine(weights={"accuracy": 2.0, "format": 0.5}), PROMPTS, ROWS)
  np.testing.assert_array_equal(rewards_QG, [[2.5, .5, 2], [0, 1.5, .5]])
  np.testing.assert_array_equal(parts["accuracy"], [[1, 0, 1], [0, .5, 0]])
  np.testing.assert_array_equal(parts["format"], [[1, 1, 0], [0, 1, 1]])
  np.testing.assert_array_equal(valid_QG, [[1, 1, 1], [1, 1, 0]])
  assert {a.dtype for a in parts.values()} == {rewards_QG.dtype}
  assert (rewards_QG.dtype, valid_QG.dtype) == (np.float32, bool)


def test_stage_2_gives_each_question_its_own_rewards():
  config = combine.RewardConfig(equation="r1-stage2").resolve()
  prompts = [prompt(1), prompt(2, "general"), prompt(3, "general")]
  both = dict(format=1, language=.5)
  rows = [[score(accuracy=1, **both)] * 2, [score(helpful=3.5, **both)] * 2,
          [score(safety=-2, **both)] * 2]
  parts, rewards_QG, valid_QG = combine.combine(config, prompts, rows)
  np.testing.assert_array_equal(rewards_QG[:, 0], [2.5, 5, -.5])
  assert valid_QG.all()
  for name, applies in [("accuracy", [1, 0, 0]), ("helpful", [0, 1, 0]),
                        ("safety", [0, 0, 1]), ("format", [1, 1, 1])]:
    np.testing.assert_array_equal(np.isnan(parts[name][:, 1]),
                                  np.logical_not(applies))


def test_a_weighted_rule_that_applies_nowhere_is_all_nan():
  config = combine.RewardConfig(weights="helpful:1").resolve()
  parts, rewards_QG, _ = combine.combine(config, PROMPTS, ROWS)
  assert np.isnan(parts["helpful"]).all()
  assert np.isfinite(rewards_QG).all()


@pytest.mark.parametrize("equation,names", [
    ("r1-zero", "accuracy format"),
    ("r1-stage1", "accuracy format language"),
    ("r1-stage2", "accuracy helpful safety format language")])
def test_equations(equation, names):
  config = combine.RewardConfig(equation=equation)
  assert config.resolve().weights == dict.fromkeys(names.split(), 1.0)


def test_r1_zero_is_the_default():
  default = combine.Combine().weights
  assert default == combine.RewardConfig().resolve().weights
  assert default == {"accuracy": 1.0, "format": 1.0}
  assert default is not combine.EQUATIONS["r1-zero"]


@pytest.mark.parametrize("text,changed", [
    ("", {}),
    ("format:0.5,repetition:0.1", {"format": .5, "repetition": .1}),
    (" format : 0 , ", {"format": 0}),
    ("length:-1e-1", {"length": -.1})])
def test_weights_override_and_join(text, changed):
  assert combine.RewardConfig(weights=text).resolve().weights == {
      "accuracy": 1.0, "format": 1.0} | changed


@pytest.mark.parametrize("fields,message", [
    (dict(equation="r1"), "equation='r1' .* r1-zero, r1-stage1, r1-stage2"),
    (dict(weights="format"), "'format' is not name:number"),
    (dict(weights="format:x"), "'format:x' is not name:number"),
    (dict(weights="format=1"), "'format=1' is not name:number"),
    (dict(weights="format:1:2"), "'format:1:2' is not name:number"),
    (dict(weights=":1"), "':1' is not name:number"),
    (dict(weights="format:nan"), "'format:nan' is not"),
    (dict(weights="format:inf"), "'format:inf' is not"),
    (dict(weights="a:1,a:2"), "names 'a' twice"),
    (dict(workers=-1), "workers=-1"),
    (dict(deadline=0.0), "deadline=0"),
    (dict(deadline=math.inf), "deadline=inf"),
    (dict(code="some"), "code='some' .* all, fraction")])
def test_bad_configs(fields, message):
  with pytest.raises(ValueError, match=message):
    combine.RewardConfig(**fields)


def test_config_survives_json():
  config = combine.RewardConfig(weights="format:0.5", workers=3)
  assert configs.from_dict(
      combine.RewardConfig, configs.to_dict(config)) == config


def test_children():
  assert combine.RewardConfig(workers=30).children(2) == 30
  assert combine.RewardConfig().children(3) == 3
  assert combine.RewardConfig().children(96) == 16


def test_weight_zero_logs_only():
  parts, rewards_QG, _ = combine.combine(
      combine.Combine(weights={"accuracy": 1.0, "format": 0.0}), PROMPTS, ROWS)
  np.testing.assert_array_equal(rewards_QG, parts["accuracy"])
  assert parts["format"].any()


@pytest.mark.parametrize("weights,message", [
    ({}, "empty"), ({"accuracy": float("nan")}, "finite")])
def test_bad_weights(weights, message):
  with pytest.raises(ValueError, match=message):
    combine.Combine(weights=weights)


def test_a_rule_without_a_weight():
  config = combine.Combine(weights={"accuracy": 1.0})
  with pytest.raises(ValueError, match="prompt 5 .* scored rules format"):
    combine.combine(config, PROMPTS, ROWS)


@pytest.mark.parametrize("sample", [{}, score(language=1)])
def test_nothing_weighted_applies(sample):
  config = combine.RewardConfig(weights="language:0").resolve()
  with pytest.raises(ValueError, match="prompt 6 of domain 'stem': no rule"):
    combine.combine(config, [prompt(5), prompt(6, "stem")],
                    [ROWS[0], [sample] * 3])


def test_a_rule_that_applies_to_some_samples_only():
  row = [score(accuracy=1, format=1), score(format=1), score(format=1)]
  with pytest.raises(ValueError, match="prompt 5 .*'accuracy' .* some samples"):
    combine.combine(combine.Combine(), PROMPTS, [row, ROWS[1]])


def test_a_crash_names_rules_that_do_not_apply():
  """The runner cannot know what a rule that died would have said."""
  crash = score(False, accuracy=0, format=0)
  row = [score(format=1), crash, score(format=1)]
  parts, rewards_QG, valid_QG = combine.combine(
      combine.Combine(), PROMPTS, [row, [crash] * 3])
  assert np.isnan(parts["accuracy"][0]).all()
  np.testing.assert_array_equal(valid_QG, [[1, 0, 1], [0, 0, 0]])
  np.testing.assert_array_equal(rewards_QG, [[1, 0, 1], [0, 0, 0]])


def test_samples_differ():
  with pytest.raises(ValueError, match="differ"):
    combine.combine(combine.Combine(), PROMPTS, [ROWS[0], ROWS[1][:2]])


def test_scored_keeps_the_order_of_items():
  texts = [["a", "b", "c"], ["d", "e", "f"]]
  items = combine.items(PROMPTS, ["T", "U"], texts)
  assert [(p.id, tail, text) for p, tail, text in items] == [
      (5, "T", "a"), (5, "T", "b"), (5, "T", "c"),
      (6, "U", "d"), (6, "U", "e"), (6, "U", "f")]
  rollout = Rollout(
      prompt_tokens=(), prompt_ids_Q=np.arange(2), lengths_QG=np.ones((2, 3)),
      tokens_QGT=np.ones((2, 3, 1)), truncated_QG=np.zeros((2, 3), bool),
      logprobs_QGT=np.zeros((2, 3, 1)))
  flat = [s for row in ROWS for s in row]
  flat[1] = flat[1] | {
      "accuracy": Score(0.0, True, "wrong", {"tests": 3.0}, "38")}
  got = combine.scored(combine.Combine(), rollout, PROMPTS, texts, flat)
  np.testing.assert_array_equal(got.rewards_QG, [[2, 1, 1], [0, 1.5, 1]])
  assert got.texts == (("a", "b", "c"), ("d", "e", "f"))
  assert got.prompts == tuple(PROMPTS)
  assert got.answers == ((None, "38", None), (None,) * 3)
  assert got.reasons[0][1] == {"accuracy": "wrong", "format": "format 1"}
  assert got.measures == (({}, {"accuracy/tests": 3.0}, {}), ({},) * 3)
  assert got.reasons[1][2] == {"accuracy": "accuracy 9", "format": "format 1"}
  with pytest.raises(ValueError, match="5 verdicts for 6 texts"):
    combine.scored(combine.Combine(), rollout, PROMPTS, texts, flat[:5])


def test_no_accuracy_no_answers():
  texts = [["a"], ["b"]]
  got = combine.scored(combine.Combine(), None, PROMPTS, texts,
                       [score(format=1)] * 2)
  assert got.answers == ((None,), (None,))
