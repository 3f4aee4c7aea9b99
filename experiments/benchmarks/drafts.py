"""Measures the acceptance rate of multi-token prediction's drafts.

  python -m experiments.benchmarks.drafts --init=base [--json]

Samples are drawn with one draft at a time, two, ... up to --depth; accepted
drafts are counted, and rollouts with and without drafts are timed in turn,
after a warm-up. Then the distributions of policy and first draft are computed
at every position of the samples, and the acceptance rates of three couplings of
their draws are compared: inverting both by one uniform number, as the engine
does; Gumbel noise shared by token; and the upper bound of all couplings.
"""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from r1jax.core.types import Rollout
from r1jax.data.text import templates
from r1jax.models.model import Model
from r1jax.rollout.drafts import couplings
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import evaluating

from .. import asking, common, data_sets, start
from .output import show

QUESTIONS = flags.DEFINE_integer(
    "questions", 16, "Number of questions, the first of --data's test split.",
    lower_bound=1)
SAMPLES = flags.DEFINE_integer(
    "samples", 16, "Samples of each question.", lower_bound=1)
NEW = flags.DEFINE_integer(
    "max_new_tokens", 96, "Longest completion, in tokens.")
TEMPLATE = flags.DEFINE_string("template", "", asking.TEMPLATE)
DEPTH = flags.DEFINE_integer(
    "depth", 3, "The most drafts at a time.", lower_bound=1)
REPS = flags.DEFINE_integer("reps", 3, "Timed rollouts.", lower_bound=1)


def distributions(model: Model, params, bias_LE, rollout: Rollout, vocab: int
                  ) -> tuple[np.ndarray, np.ndarray]:
  """Distributions of policy and draft at every drafted token.

  Returns:
    float64 [N, V] each, normalised.
  """
  @jax.jit
  def both(params, bias_LE, tokens_BT):
    b, t = tokens_BT.shape
    positions = jnp.broadcast_to(jnp.arange(t)[None], (b, t))
    segments = jnp.ones_like(positions)
    hidden = model.forward(
        params, bias_LE, tokens_BT, positions, segments).hidden_BTD
    drafted = model.mtp(params, bias_LE, hidden, jnp.roll(tokens_BT, -1, 1),
                        positions, segments).hidden_BTD
    return tuple(jax.nn.softmax(jnp.dot(
        x, model.head(params),
        preferred_element_type=jnp.float32)[..., :vocab])
        for x in (hidden, drafted))

  longest = max(map(len, rollout.prompt_tokens)) + rollout.tokens_QGT.shape[2]
  parts = []
  for prompt, tokens_GT, lengths_G in zip(
      rollout.prompt_tokens, rollout.tokens_QGT, rollout.lengths_QG):
    texts = np.zeros((len(tokens_GT), longest), np.int32)
    texts[:, :len(prompt)] = prompt
    texts[:, len(prompt):len(prompt) + tokens_GT.shape[1]] = tokens_GT
    p_GTV, q_GTV = map(np.asarray, both(params, bias_LE, texts))
    for g, length in enumerate(lengths_G):
      # Token i is drawn from the hidden state of token i - 1 and drafted from
      # that of i - 2; a sample's first token has no draft.
      at = len(prompt) + 1 + np.arange(max(length - 1, 0))
      parts.append((p_GTV[g, at - 1], q_GTV[g, at - 2]))
  p, q = (np.concatenate(x).astype(np.float64) for x in zip(*parts))
  return p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)


def main() -> None:
  policy, tokenizer = common.policy(0, None, computing=True)
  model, template = policy.model, asking.template(TEMPLATE.value)
  parts = data_sets.sources("test")
  questions = [p for part in parts.values() for p in part][:QUESTIONS.value]
  prompts = [np.array(templates.prompt(p.messages, template, tokenizer).ids,
                      np.int32) for p in questions]
  engines = {depth: Engine(model, SamplingConfig(
      max_new_tokens=NEW.value, vocab=tokenizer.vocab_size),
      tokenizer.eos_ids, speculate=depth)
      for depth in range(DEPTH.value + 1)}
  params = evaluating.laid_out(policy, engines[0])
  seconds: dict[int, list[float]] = {depth: [] for depth in engines}
  found = {}
  for number in range(REPS.value + 1):
    for depth, engine in engines.items():
      engine.speed.clear()
      began = time.perf_counter()
      found[depth] = engine.generate(
          params, policy.router_bias_LE, prompts, [p.id for p in questions],
          SAMPLES.value, jax.random.key(0))
      if number:  # the first compiles
        seconds[depth].append(time.perf_counter() - began)
  speed = engines[0].speed
  measures = {"tokens": speed["tokens"]}
  real = np.arange(NEW.value) < found[0].lengths_QG[..., None]
  for depth in range(1, DEPTH.value + 1):
    speed = engines[depth].speed
    same = real & (found[0].tokens_QGT == found[depth].tokens_QGT)
    measures |= {
        f"same_tokens_{depth}": same.sum() / real.sum(),
        f"same_samples_{depth}": (same == real).all(-1).mean(),
        f"tokens_a_round_{depth}": speed["tokens"] / speed["rounds"],
        f"speed_of_plain_{depth}": (statistics.median(seconds[0])
                                    / statistics.median(seconds[depth]))}
  measures |= {name: count / speed["rounds"]  # of the deepest
               for name, count in speed.items() if name.startswith("accepted")}
  show(measures | couplings(*distributions(
      model, policy.params, policy.router_bias_LE, found[0],
      tokenizer.vocab_size)))


if __name__ == "__main__":
  start.run(main)
