"""Measures the acceptance rate of multi-token prediction's drafts.

  python -m experiments.benchmarks.drafts --init=base [--json]

Samples are drawn with drafts, and accepted drafts are counted. Then the
distributions of policy and draft are computed at every position of the samples,
and the acceptance rates of three couplings of their draws are compared:
inverting both by one uniform number, as the engine does; Gumbel noise shared by
token; and the upper bound of all couplings. Last, rollouts with and without
drafts are timed in turn, after a warm-up.
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
  engines = {name: Engine(model, SamplingConfig(
      max_new_tokens=NEW.value, vocab=tokenizer.vocab_size),
      tokenizer.eos_ids, speculate=name == "drafts")
      for name in ("plain", "drafts")}
  params = evaluating.laid_out(policy, engines["plain"])
  seconds: dict[str, list[float]] = {name: [] for name in engines}
  found = {}
  for number in range(REPS.value + 1):
    for name, engine in engines.items():
      engine.speed.clear()
      began = time.perf_counter()
      found[name] = engine.generate(
          params, policy.router_bias_LE, prompts, [p.id for p in questions],
          SAMPLES.value, jax.random.key(0))
      if number:  # the first compiles
        seconds[name].append(time.perf_counter() - began)
  speed = engines["drafts"].speed
  measures = {
      "tokens": speed["tokens"],
      "same": float(np.mean(found["plain"].tokens_QGT
                            == found["drafts"].tokens_QGT)),
      "taken": (speed["tokens"] - speed["rounds"]) / speed["rounds"],
      **couplings(*distributions(
          model, policy.params, policy.router_bias_LE, found["plain"],
          tokenizer.vocab_size)),
      "speed_of_plain": (statistics.median(seconds["plain"])
                         / statistics.median(seconds["drafts"]))}
  show(measures)


if __name__ == "__main__":
  start.run(main)
