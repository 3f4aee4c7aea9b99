"""Answers as they grow are those that are sampled whole."""

import jax
import numpy as np

from r1jax.core.prompt import ask
from r1jax.data.text import templates
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import answering
from tests.stages import cases


def test_the_stream_is_the_sample():
  policy, tokenizer = cases.policy(), cases.tokenizer()
  engine = Engine(policy.model, SamplingConfig(max_new_tokens=12),
                  tokenizer.eos_ids)
  key = jax.random.key(3)
  pieces = list(answering.stream(
      engine, policy, tokenizer, "What is 2 + 2?", "plain", key))
  ids = templates.prompt(ask("What is 2 + 2?"), "plain", tokenizer).ids
  rollout = engine.generate(
      policy.params, policy.router_bias_LE, [np.array(ids, np.int32)], [0], 1,
      key)
  sampled = [i for i in rollout.completion(0, 0) if i not in tokenizer.eos_ids]
  assert len(pieces) > 3
  assert "".join(pieces) == tokenizer.decode(sampled) != ""
