"""Log-probabilities of a fixed policy, such as the old or reference policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from r1jax.core.types import TokenBatch
from r1jax.models.model import Model
from r1jax.ops.logprobs import chunked_logprobs


def make_logprobs(model: Model, temperature: float = 1.0) -> Callable[
    [Any, jax.Array, TokenBatch], tuple[jax.Array, jax.Array]]:
  """A compiled function that returns log-probabilities and entropies.

  Recorded experts in the batch are replayed. That is right for the policy that
  sampled with them. For another policy, such as the reference, leave them out:
  the difference of its router's choices is a part of the KL.

  Args:
    model: of the policy.
    temperature: divides the logits, as the sampler's does.

  Returns:
    (params, router_bias_LE, micro-batch) -> (logprobs_BT, entropy_BT), float32,
    for every target, trained or not.
  """
  def run(params, bias_LE, batch):
    out = model.forward(
        params, bias_LE, batch.tokens_BT, batch.positions_BT,
        batch.segments_BT, experts_BTLA=batch.experts_BTLA)
    return chunked_logprobs(out.hidden_BTD, model.head(params),
                            batch.targets_BT, temperature=temperature,
                            precision=model.compute.products,
                            axes=model.place.axes)

  return jax.jit(run)
