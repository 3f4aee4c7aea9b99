"""Streams the answer to one question."""

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
  """Yields the answer in pieces, starting with what the template prefills.

  Args:
    engine: an engine of the policy's model.
    policy: the model that answers; if its parameters are in the decode layout
      (`evaluating.laid_out`), they are not copied.
    tokenizer: the policy's tokenizer.
    question: any text.
    template: name in `data.text.templates`.
    key: random key of the sample.

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
