"""Compares an evaluation's tokens per second with those of its engine alone.

  python -m experiments.benchmarks.evaluation [--init=base] [--json]
      [--data=arith] [--split=train] [--problems=500] [--samples=16]

The same problems are answered with the same tokens by the engine alone, from
ids to ids, and by `evaluating.collect`, which also renders prompts, decodes,
judges and stores, as `experiments.evaluate` does. Both run twice, in turn; the
first time compiles and starts the judge's processes and is not reported. Also
reported is the time that the evaluation spends outside the engine, part of
which is scoring, as a share of the engine's time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.rollout.engine import Engine
from r1jax.stages import evaluating, judging, tasks
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.judging import Judge
from r1jax.stages.weights import Weights

from .. import asking, common, data_sets, flagset, start
from .output import show

EVAL = flagset.define(EvalConfig())
SPLIT = flags.DEFINE_string(
    "split", "train", "Split of --data to take problems from.")
PROBLEMS = flags.DEFINE_integer(
    "problems", 500, "Number of problems.", lower_bound=1)
TEMPLATE = flags.DEFINE_string("template", "r1-zero", asking.TEMPLATE)


def main() -> None:
  cfg, template = EVAL.value(), asking.template(TEMPLATE.value)
  policy, tokenizer = common.policy(cfg.seed, common.mesh(), computing=True)
  engine = evaluating.sampler(cfg, policy.model, tokenizer, common.mesh())
  limit = policy.model.cfg.max_position - cfg.max_new_tokens
  parts = data_sets.sources(SPLIT)
  with judging.judge(tokenizer, template, None,
                     tasks.verifiers(data_sets.DATA.value)) as judge:
    prompts = tasks.joined(tasks.all_fitting(
        parts, judge, limit, SPLIT.value))[:PROBLEMS.value]
    check(len(prompts) == PROBLEMS.value, f"--problems={PROBLEMS.value}: there"
          f" are {len(prompts)}; give another --split")
    found = measure(cfg, engine, judge, policy, prompts)
  show(found)


def measure(cfg: EvalConfig, engine: Engine, judge: Judge, policy: Weights,
            prompts: Sequence[Prompt]) -> dict[str, float]:
  """Measures what `main` prints.

  Returns:
    `problems`, `samples` of each, `tokens` sampled; `engine_s` and
    `evaluation_s`, seconds of the engine alone and of the evaluation, and their
    tokens per second; `kept`, the evaluation's speed as a share of the
    engine's; `engine_inside_s`, seconds that the evaluation spent in the
    engine; `added`, its other seconds as a share of these.
  """
  params = evaluating.laid_out(policy, engine, donate=True)
  timed = _Timed(engine)
  sample = evaluating.generating(
      cfg, timed, judge, params, policy.router_bias_LE)

  def evaluate() -> float:
    timed.start()
    with tempfile.TemporaryDirectory() as folder:
      began = time.perf_counter()
      rows = evaluating.collect(cfg, sample, judge, prompts, folder)
      evaluating.write(os.path.join(folder, "generations.jsonl.gz"), rows)
      return time.perf_counter() - began

  def alone() -> float:
    ids = [judge.tokens(prompt) for prompt in prompts]
    began = time.perf_counter()
    engine.generate(params, policy.router_bias_LE, ids,
                    [prompt.id for prompt in prompts], cfg.samples, timed.key)
    return time.perf_counter() - began

  for _ in range(2):
    whole = evaluate()
    bare = alone()
  tokens = timed.tokens
  return {
      "problems": len(prompts), "samples": cfg.samples, "tokens": tokens,
      "engine_s": bare, "engine_tokens_per_s": tokens / bare,
      "evaluation_s": whole, "evaluation_tokens_per_s": tokens / whole,
      "kept": bare / whole, "engine_inside_s": timed.seconds,
      "added": (whole - timed.seconds) / timed.seconds}


class _Timed:
  """An engine that counts its tokens and seconds."""

  def __init__(self, engine: Engine):
    self._engine, self.model = engine, engine.model
    self.key: jax.Array | None = None  # key of the last call
    self.start()

  def start(self) -> None:
    self.seconds, self.tokens = 0.0, 0

  def groups(self, params: Any, bias_LE: Any, prompts: Any, prompt_ids: Any,
             samples: int, key: Any) -> Any:
    """Like `Engine.groups`, timed."""
    self.key = key  # the engine alone draws the same tokens with it
    found = self._engine.groups(
        params, bias_LE, prompts, prompt_ids, samples, key)
    while True:
      began = time.perf_counter()
      complete = next(found, None)
      self.seconds += time.perf_counter() - began
      if complete is None:
        return
      self.tokens += sum(int(rollout.lengths_QG.sum())
                         for _, rollout in complete)
      yield complete


if __name__ == "__main__":
  start.run(main)
