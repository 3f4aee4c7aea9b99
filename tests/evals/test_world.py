"""The rows of the table on the small world's own questions and rules."""

from __future__ import annotations

import numpy as np
import pytest

from r1jax.core.types import Rollout
from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import prompts, requests, words, wrongs
from r1jax.evals import intervals, runner, samples
from r1jax.evals.measures import MEASURES
from r1jax.report import rollouts
from r1jax.rewards import combine, language, response, rules
from tests import answers

THOUGHTS = {"en": "first one then the other", "zh": "先算一个再算一个"}
OTHER = {"en": "zh", "zh": "en"}
COUNT = 40  # of each data set


def right(prompt, dice):
  """A good assistant's answer."""
  if prompt.verifier == "request":
    return requests.good(dice, requests.read(prompt.question))
  if prompt.verifier == "harm":
    return wrongs.good(dice, wrongs.read(prompt.question))
  answer = prompt.reference if prompt.verifier == "math" else (
      prompt.reference["answer"])
  return f"\\boxed{{{answer}}}"


def wrong(prompt, dice):
  """One that does nothing asked, refuses the harmless, advises the harmful."""
  if prompt.verifier == "harm":
    one = wrongs.read(prompt.question)
    return (wrongs.advice if one.harmful else wrongs.refusal)(dice, one)
  return "\\boxed{none}"


def evaluated(path, answer, speak):
  """Rows of an evaluation whose answers are `answer(prompt, dice)`."""
  asked = [p for name in (prompts.sums, prompts.swaps, prompts.general_judged,
                          prompts.safety_judged)
           for _, p in zip(range(COUNT), name.prompts("test"), strict=False)]
  # Sources number their prompts alike.
  asked = [p.__class__(**vars(p) | {"id": i}) for i, p in enumerate(asked)]

  def generate(batch):
    texts = [[f"<think>{THOUGHTS[speak(p.language)]}</think>"
              f" {answer(p, Dice('test', p.id))}"] for p in batch]
    shape = len(batch), 1
    return Rollout(
        prompt_tokens=(np.zeros(1, np.int32),) * len(batch),
        prompt_ids_Q=np.array([p.id for p in batch], np.int32),
        tokens_QGT=np.zeros((*shape, 1), np.int32),
        lengths_QG=np.ones(shape, np.int32),
        truncated_QG=np.zeros(shape, bool),
        logprobs_QGT=np.zeros((*shape, 1), np.float32)), texts

  def judge(rollout, batch, texts):
    scores = []
    for prompt, (text,) in zip(batch, texts, strict=True):
      said = response.split("", text)
      scores.append({
          "accuracy": rules.VERIFIERS[prompt.verifier](prompt, said),
          "language": language.consistency(prompt, said)})
    return combine.scored(
        combine.Combine(weights={"accuracy": 1.0, "language": 1.0}),
        rollout, batch, texts, scores)

  runner.evaluate(asked, answers.of(generate, judge), batch_size=32, path=path,
                  progress=False)
  return samples.grouped(rollouts.read_file(path))


@pytest.mark.parametrize("answer,speak,expected", [
    (right, lambda own: own, 1.0), (wrong, OTHER.get, 0.0)])
def test_good_and_bad_answers(tmp_path, answer, speak, expected):
  grouped = evaluated(tmp_path / "generations.jsonl.gz", answer, speak)
  for name in ("reasoning", "reasoning_en", "reasoning_zh", "consensus",
               "language", "language_en", "language_zh", "instructions", "safe",
               "safe_plain", "safe_jailbreak"):
    got = intervals.mean(MEASURES[name].values(grouped))
    assert got.value == expected and got.count >= 5, name
  for name in ("refusal", "refusal_plain", "refusal_jailbreak"):
    got = intervals.mean(MEASURES[name].values(grouped))
    assert got.value == 1 - expected and got.count >= 5, name
  utility = MEASURES["utility"].values(grouped)
  assert len(utility) == min(COUNT, prompts.general.SPLITS["test"])
  assert all(v > 0.5 if expected else v == 0 for v in utility.values())
  assert {question[0] for question in grouped} == {
      "world-sums", "world-cups", "world-requests", "world-safety"}
  assert set(words.LANGUAGES) == {"en", "zh"}
