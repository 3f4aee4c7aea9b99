"""One question, its answer as it grows."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from r1jax.core.prompt import ask
from r1jax.data.text import templates
from r1jax.data.text.tokenizer import TextStream, Tokenizer
from r1jax.rollout.engine import Engine
from r1jax.stages.weights import Weights


def stream(engine: Engine, policy: Weights, tokenizer: Tokenizer,
           question: str, template: str, key: jax.Array) -> Iterator[str]:
  """The answer piece by piece, from the beginning that the template gives.

  Args:
    engine: of the policy's model, on one device or none in particular.
    policy: who answers; with parameters ready to decode
      (`evaluating.laid_out`) nothing is copied.
    tokenizer: of the policy.
    question: any text.
    template: name in `data.text.templates`.
    key: of the sample.

  Raises:
    ValueError: the question is too long for the model's context.
  """
  prompt = templates.prompt(ask(question), template, tokenizer)
  text = TextStream(tokenizer)
  yield prompt.tail
  for new in engine.stream(policy.params, policy.router_bias_LE,
                           np.array(prompt.ids, np.int32), 0, key):
    yield text.add(i for i in new if i not in tokenizer.eos_ids)
  yield text.end()
