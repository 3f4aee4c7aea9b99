"""Evaluating a policy: engine and judge around the estimators."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax

from r1jax.core import keys
from r1jax.core.config import check
from r1jax.core.types import Prompt
from r1jax.evals import runner
from r1jax.evals.runner import EvalResult
from r1jax.rollout.engine import Engine
from r1jax.stages.judging import Judge

# Evaluation draws other samples than training at every step.
_STREAM = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """How much to sample; the paper: T=0.6, top-p 0.95, 64 samples on AIME."""

  samples: int = 16  # per problem, for pass@1 and majority voting
  batch: int = 16  # problems sampled at once
  temperature: float = 0.6  # 1 samples as in training
  top_p: float = 0.95  # smallest set of tokens with this probability
  max_new_tokens: int = 96  # longest completion
  seed: int = 0  # of the samples

  def __post_init__(self):
    check(min(self.samples, self.batch) > 0,
          f"samples={self.samples} and batch={self.batch} must be positive")


def evaluate(cfg: EvalConfig, engine: Engine, judge: Judge, params: Any,
             bias_LE: jax.Array, prompts: Sequence[Prompt], *, step: int = 0,
             path: str | os.PathLike | None = None, name: str = "evaluate",
             progress: bool = True) -> EvalResult:
  """Samples every problem cfg.samples times and summarises.

  Args:
    cfg: how much; its sampling settings are the engine's business.
    engine: of the policy's model.
    judge: phrases and judges.
    params: the policy.
    bias_LE: its router bias.
    prompts: the problems.
    step: part of the address of the samples' randomness.
    path: where to store the generations, or None.
    name: of the progress bar.
    progress: whether to show it.
  """
  key = keys.fold(jax.random.key(cfg.seed), _STREAM, step)

  def generate(batch):
    rollout = engine.generate(
        params, bias_LE, [judge.tokens(p) for p in batch],
        [p.id for p in batch], cfg.samples, key)
    return rollout, judge.texts(rollout)

  def score(rollout, batch, texts):
    return judge.submit(rollout, batch, texts)()

  return runner.evaluate(
      prompts, generate, score, batch_size=cfg.batch, path=path, name=name,
      progress=progress)


def metrics(result: EvalResult) -> dict[str, float]:
  """The numbers of an evaluation under the names of the log."""
  found = {
      "eval/pass1": result.pass1, "eval/pass1_low": result.pass1_low,
      "eval/pass1_high": result.pass1_high, "eval/maj": result.maj_k,
      "eval/k": result.n_samples, "eval/length_mean": result.mean_length,
      "eval/truncated_fraction": result.truncated}
  if result.format is not None:
    found["eval/format"] = result.format
  for level, pass1 in result.by_level.items():
    found[f"eval/level_{level}"] = pass1
  if len(result.by_domain) > 1:
    for domain, pass1 in result.by_domain.items():
      found[f"eval/domain_{domain}"] = pass1
  return found
