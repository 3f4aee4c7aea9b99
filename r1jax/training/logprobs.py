"""Log-probabilities of a fixed policy: the old one, the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from r1jax.core.types import TokenBatch
from r1jax.models.model import Model
from r1jax.ops.logprobs import chunked_logprobs


def make_logprobs(model: Model, temperature: float = 1.0) -> Callable[
    [Any, jax.Array, TokenBatch], tuple[jax.Array, jax.Array]]:
  """Compiled (params, router_bias_LE, micro-batch) -> (logprobs, entropy).

  The micro-batch is [B, T]; so are both results, float32, of every target,
  trained or not. Recorded experts in the batch are replayed: that is for the
  policy that chose them. Another policy, the reference, has a router of its
  own, whose drift belongs in the KL: leave the experts out for it.
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
