"""Reward models in the loop: text travels, models compute beside the rules."""

import concurrent.futures
import dataclasses
import json

import jax
import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.streams import preference, sft
from r1jax.data.text import hf_tokenizer
from r1jax.models import scalar_head
from r1jax.models.compute import Compute
from r1jax.report import writer
from r1jax.rewards import models
from r1jax.rewards.combine import EQUATIONS, Combine, RewardConfig
from r1jax.rewards.score import Score
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import exporting, grpo, judging, reward_models
from r1jax.stages.judging import Judge
from r1jax.stages.scoring import Scoring
from r1jax.stages.weights import Weights
from tests.data.text import hf_cases
from tests.stages import cases

SAME = dict(rtol=1e-5, atol=1e-5)
BLANK = -7.5


def reward_model():
  model = scalar_head.over(cases.DENSE, Compute())
  return Weights(model, model.init(jax.random.key(4)),
                 model.init_router_bias())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A reward model whose tokenizer is not the policy's."""
  top = tmp_path_factory.mktemp("rewards")
  tokenizer = hf_tokenizer.load(hf_cases.qwen(top / "tokenizer"))
  exporting.write_reward(
      str(top / "hf"), reward_model(), tokenizer, {
          "blank": BLANK, "template": "chat", "row_length": 64},
      init="random:x", command="test")
  return top / "hf"


def general(number, **metadata):
  return Prompt(id=number, domain="general", source="t",
                messages=ask(f"Say {number}"), reference=None, verifier="",
                metadata=metadata)


PROMPTS = [general(0), general(1, safety=True), general(2)]
TEXTS = ["thought</think> Hello", "thought</think> No", "never ends"]


def config(folder, **more):
  return RewardConfig(equation="r1-stage2", helpful=f"hf:{folder}",
                      safety=f"hf:{folder}", **more)


@pytest.mark.parametrize("mesh,offload", [(False, False), (False, True),
                                          (True, True)])
def test_text_travels_and_each_prompt_has_one_model(folder, mesh, offload):
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)) if mesh else None
  scorers = reward_models.load(config(folder), Compute(), mesh, offload=offload)
  found = models.score(scorers, [
      (p, "<think>", text) for p, text in zip(PROMPTS, TEXTS)])
  tokenizer, weights = hf_tokenizer.load(folder), reward_model()
  shown = {0: ("helpful", "Hello"), 1: ("safety", "<think>thought</think> No")}
  for number, (name, text) in shown.items():
    ids, _ = preference.encode(
        [*PROMPTS[number].messages, {"role": "assistant", "content": text}],
        "chat", tokenizer, sft.end_of_answer("chat", tokenizer))
    want, = Scoring(weights.model, 2, 64)(
        weights.params, weights.router_bias_LE, [ids])
    assert set(found[number]) == {name}
    assert found[number][name].value == pytest.approx(want, **_close(SAME))
  assert found[2] == {"helpful": Score(BLANK, True, "blank answer")}
  # Again, after it has rested.
  again = models.score(scorers, [(PROMPTS[0], "<think>", TEXTS[0])])
  assert again[0] == found[0]


def _close(tolerance):
  return {"rel": tolerance["rtol"], "abs": tolerance["atol"]}


def test_what_cannot_be_scored_is_invalid_and_ends_nothing(folder):
  scorers = reward_models.load(config(folder), Compute())
  control = dataclasses.replace(
      PROMPTS[0], messages=ask("Say <|im_end|> please"))
  found = models.score(scorers, [
      (control, "", "Yes"), (PROMPTS[0], "", "a b " * 400),
      (PROMPTS[2], "", "Well <|im_end|>")])
  # What messages spell is text, a control token's name too.
  assert [row["helpful"].valid for row in found] == [True, False, True]
  assert found[1]["helpful"].reason == "the model gave nan"


class FormatPool:
  """A format rule at once; it applies to every prompt."""

  def submit(self, items):
    future = concurrent.futures.Future()
    future.set_result([
        {"format": Score(float("e" in text), True, "")}
        for *_, text in items])
    return future


def test_grpo_with_reward_models(folder, tmp_path):
  scorers = reward_models.load(config(folder), Compute())
  weights = {name: weight for name, weight in EQUATIONS["r1-stage2"].items()
             if name in ("helpful", "safety", "format")}
  judge = Judge(cases.tokenizer(), "plain", FormatPool(),
                Combine(weights=weights), scorers)
  prompts = [dataclasses.replace(p, verifier="", metadata={
      "safety": p.id % 2 == 0}) for p in cases.prompts()]
  grpo.run(cases.config(steps=2, offload=("rewards",)), cases.handed(), judge,
           prompts, tmp_path)
  rows = writer.read(tmp_path)
  assert len(rows) == 2
  for row in rows:
    assert row["reward/helpful"] != row["reward/safety"]
    assert row["skipped"] == 0 and np.isfinite(row["reward/format"])


def test_a_model_that_is_missing(folder):
  tokenizer = cases.tokenizer()

  def judged(rewards):
    return judging.judge(tokenizer, "plain", rewards, models=(
        reward_models.load(rewards, Compute())))

  with pytest.raises(ValueError, match="no model gives the reward helpful and"
                     " safety: give --rewards.helpful=orbax"):
    with judged(RewardConfig(equation="r1-stage2", workers=1)):
      pass
  with pytest.raises(ValueError, match="no weight for helpful; set"):
    with judged(RewardConfig(helpful=f"hf:{folder}", workers=1)):
      pass
  one = RewardConfig(equation="r1-stage2", helpful=f"hf:{folder}", workers=1)
  with judged(one) as judge:
    assert "safety" not in judge.rewards.weights
    judge.check([PROMPTS[0]])
    with pytest.raises(ValueError, match="prompt 1 of 't' needs the reward"
                       " model 'safety': give --rewards.safety"):
      judge.check(PROMPTS)


def test_another_model_in_the_same_folder_is_seen(folder, tmp_path):
  first = reward_models.digests(config(folder))
  assert set(first) == {"helpful", "safety"}
  path = folder / "reward.json"
  about = json.loads(path.read_text())
  path.write_text(json.dumps(about | {"blank": -1.0}))
  assert reward_models.digests(config(folder)) != first
  path.write_text(json.dumps(about))
  assert reward_models.digests(config(folder)) == first
  for init, message in (("base", "is not a reward model"),
                        (f"orbax:{tmp_path}", "does not exist"),
                        (f"hf:{tmp_path}", "It has the score of an answer")):
    with pytest.raises(ValueError, match=message):
      reward_models.load(RewardConfig(helpful=init), Compute())
