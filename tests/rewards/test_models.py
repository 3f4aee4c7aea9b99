from __future__ import annotations

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import combine, models
from r1jax.rewards.score import Score


def prompt(i, verifier="", **metadata):
  return Prompt(id=i, domain="general", source="", messages=ask(f"{i}?"),
                reference="", verifier=verifier, metadata=metadata)


MATH, CHAT, HARM = prompt(1, "math"), prompt(2), prompt(3, safety=True)


class Recorder:
  """A model whose score is the length of what it is shown."""

  def __init__(self, value=None):
    self.value, self.shown = value, []

  def __call__(self, prompts, texts):
    self.shown += [(p.id, text) for p, text in zip(prompts, texts)]
    return [len(t) if self.value is None else self.value for t in texts]


def scorers(helpful, safety):
  return {
      "helpful": models.Scorer(model=helpful, shown="summary", blank=-5),
      "safety": models.Scorer(model=safety, shown="text", blank=-6)}


ITEMS = [(p, "<think>", "steps</think> done") for p in (MATH, CHAT, HARM)]


def test_each_prompt_has_its_own_model_and_text():
  helpful, safety = Recorder(), Recorder()
  got = models.score(scorers(helpful, safety), ITEMS)
  assert helpful.shown == [(2, "done")]
  assert safety.shown == [(3, "<think>steps</think> done")]
  assert got == [{}, {"helpful": Score(4.0, True, "judged")},
                 {"safety": Score(25.0, True, "judged")}]


def test_nothing_to_show_is_not_asked():
  helpful, safety = Recorder(), Recorder()
  got = models.score(scorers(helpful, safety), [
      (CHAT, "<think>", "endless"), (CHAT, "", "a</think> \n"),
      (CHAT, "", "a</think><answer> </answer>"), (HARM, "", " \n")])
  assert not helpful.shown and not safety.shown
  assert [s["helpful"].value for s in got[:3]] == [-5, -5, -5]
  assert got[3]["safety"].value == -6
  assert all(score.valid for row in got for score in row.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_is_no_verdict(value):
  got = models.score(scorers(Recorder(value), Recorder()), ITEMS)
  assert (got[1]["helpful"].value, got[1]["helpful"].valid) == (0, False)
  assert got[2]["safety"].valid


def test_a_model_must_answer_for_each():
  with pytest.raises(ValueError, match="'helpful' gave 0 scores for 1 texts"):
    models.score(scorers(lambda prompts, texts: [], Recorder()), ITEMS)


def test_without_a_safety_model_safety_prompts_have_no_reward():
  got = models.score({"helpful": models.Scorer(
      model=Recorder(), shown="summary", blank=0)}, ITEMS)
  assert got[2] == {}
  with pytest.raises(ValueError, match="prompt 3 .* no rule with a weight"):
    combine.combine(combine.Combine(), [HARM], [got[2:]])


def test_ids():
  seen = []

  def model(ids):
    seen.extend(ids)
    return np.array([len(row) for row in ids], np.float32)

  def encode(prompt, text):
    return np.array([prompt.id, *text.encode()], np.int32)

  got = models.score(
      scorers(models.from_ids(model, encode), Recorder()), ITEMS)
  assert got[1]["helpful"].value == 5
  assert [row.tolist() for row in seen] == [[2, *b"done"]]


def test_merged_scores_enter_a_combine():
  rules = [{"format": Score(1.0, True, ""), "accuracy": Score(1.0, True, "")},
           {"format": Score(1.0, True, "")}, {"format": Score(0.0, True, "")}]
  merged = models.merge(
      rules, models.score(scorers(Recorder(), Recorder()), ITEMS))
  config = combine.RewardConfig(equation="r1-stage2").resolve()
  _, rewards_QG, _ = combine.combine(
      config, [MATH, CHAT, HARM], [[row] for row in merged])
  np.testing.assert_array_equal(rewards_QG, [[2], [5], [25]])


def test_bad_merges():
  one = [{"format": Score(1.0, True, "")}]
  with pytest.raises(ValueError, match="format was judged twice"):
    models.merge(one, one)
  with pytest.raises(ValueError):
    models.merge(one, one * 2)


@pytest.mark.parametrize("fields,message", [
    (dict(shown="thought"), "shown='thought'"),
    (dict(blank=float("nan")), "blank=nan")])
def test_bad_scorers(fields, message):
  with pytest.raises(ValueError, match=message):
    models.Scorer(**dict(model=Recorder(), shown="text", blank=0.0) | fields)
