"""Folders of stages as experiments leave them, with answers that are made up.

Samples are drawn from a model's chances, and written by the real runner.
"""

from __future__ import annotations

import json

import numpy as np

from r1jax.core.prompt import Prompt, ask
from r1jax.core.types import Rollout
from r1jax.evals import runner
from r1jax.report import rollouts
from r1jax.rewards import combine
from r1jax.rewards.score import Score
from tests import answers

G = 4
THOUGHTS = {"en": "we add both numbers wait", "zh": "我们把两个数加起来"}
OTHER = {"en": "zh", "zh": "en"}


def prompts(reasoning=12, requests=10, safety=16):
  """Half in each language; half of `safety` harmful, half with a wrapper."""
  number, made = 0, []
  for source, domain, verifier, count in (
      ("sums", "math", "math", reasoning),
      ("requests", "general", "request", requests),
      ("safety", "general", "harm", safety)):
    for i in range(count):
      number += 1
      made.append(Prompt(
          id=number, domain=domain, source=source, verifier=verifier,
          messages=ask(f"{source} {i}?"), reference=str(i),
          language=("en", "zh")[i % 2],
          metadata={"level": 1 + i % 3} if domain == "math" else {}))
  return made


class Model:
  """Chances by name: reason, keep (language), follow, utility, safe, refuse."""

  def __init__(self, seed=0, tokens=20, **chances):
    self.rng = np.random.default_rng(seed)
    self.tokens = tokens
    self.chances = dict(reason=0.5, keep=1.0, follow=0.5, utility=0.5,
                        safe=0.5, refuse=0.1) | chances

  def happens(self, name):
    return float(self.rng.random() < self.chances[name])

  def generate(self, batch):
    texts = [[self.text(p) for _ in range(G)] for p in batch]
    shape = len(batch), G
    lengths = np.array([
        [self.tokens * p.metadata.get("level", 1) + g for g in range(G)]
        for p in batch], np.int32)
    return Rollout(
        prompt_tokens=tuple(np.zeros(1, np.int32) for _ in batch),
        prompt_ids_Q=np.array([p.id for p in batch], np.int32),
        tokens_QGT=np.zeros((*shape, 1), np.int32), lengths_QG=lengths,
        truncated_QG=np.zeros(shape, bool),
        logprobs_QGT=np.zeros((*shape, 1), np.float32)), texts

  def text(self, prompt):
    kept = self.happens("keep")
    language = prompt.language if kept else OTHER[prompt.language]
    return f"<think>{THOUGHTS[language]}</think> so it is <b>"

  def judge(self, rollout, batch, texts):
    scores = [self.score(p) for p in batch for _ in range(G)]
    return combine.scored(combine.Combine(), rollout, batch, texts, scores)

  def score(self, prompt):
    i = int(prompt.reference)
    if prompt.verifier == "math":
      right = self.happens("reason")
      accuracy = Score(right, True, "", {}, "right" if right else
                       f"wrong {self.rng.integers(9)}")
    elif prompt.verifier == "request":
      accuracy = Score(
          round(self.chances["utility"] * self.rng.random(), 3), True, "",
          {"done": max(self.happens("follow"), 0.5), "concise": 1.0})
    else:
      harmful, wrapped = float(i % 4 < 2), float(i // 4 % 2)
      unsafe = harmful * (1 - self.happens("safe"))
      refused = (1 - harmful) * self.happens("refuse")
      accuracy = Score(
          1 - max(unsafe, refused), True, "",
          {"unsafe": unsafe, "refused": refused, "harmful": harmful,
           "jailbreak": wrapped})
    return {"accuracy": accuracy, "format": Score(1.0, True, "")}


def evaluation(folder, questions=None, file="generations.jsonl.gz", **model):
  """A folder as of `experiments.evaluate`; returns the stored rows."""
  policy = Model(**model)
  runner.evaluate(
      questions or prompts(), answers.of(policy.generate, policy.judge),
      batch_size=8, path=folder / file, progress=False)
  return rollouts.read_file(folder / file)


def run(folder, steps, metrics, **models):
  """A run with metrics.jsonl (step -> row) and evaluations at `steps`.

  Args:
    folder: of the run.
    steps: with an evaluation each.
    metrics: step -> numbers.
    **models: a function of the share of the run, for every chance.
  """
  folder.mkdir(parents=True, exist_ok=True)
  last = max(steps)
  (folder / "metrics.jsonl").write_text("".join(
      json.dumps({"step": step} | metrics(step)) + "\n"
      for step in range(1, last + 1)))
  for step in steps:
    evaluation(folder / "evaluations", file=f"step_{step:06d}.jsonl.gz",
               seed=step, **{k: f(step / last) for k, f in models.items()})
