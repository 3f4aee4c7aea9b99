"""Training state and updates of pre-training and supervised fine-tuning."""

from __future__ import annotations

from typing import Any

import jax

from r1jax.core.types import TokenBatch
from r1jax.models.model import Model
from r1jax.training import state as state_lib
from r1jax.training import step
from r1jax.training.lora import LoraConfig
from r1jax.training.metrics import Metrics
from r1jax.training.objectives import Objective
from r1jax.training.optimizer import OptimizerConfig


class Trainer:
  """Trains a model on one objective.

  Attributes:
    state: the training state; may be replaced by a restored one.
  """

  def __init__(self, model: Model, params: Any, router_bias_LE: jax.Array,
               objective: Objective, cfg: OptimizerConfig, *,
               gamma: float = 0.0, adapter: LoraConfig | None = None,
               seed: int = 0, mesh: jax.sharding.Mesh | None = None):
    """Creates the training state; compiles no update yet.

    Args:
      model: what is trained.
      params: its parameters, donated (see `state.start`).
      router_bias_LE: its router bias, donated.
      objective: what is minimised.
      cfg: the optimizer.
      gamma: update speed of the router bias; 0 keeps the bias.
      adapter: with rank > 0, trained instead of the parameters.
      seed: of the adapter's initial values.
      mesh: to train on; None for one device.
    """
    started = state_lib.start(
        model, params, router_bias_LE, cfg, adapter=adapter,
        key=jax.random.key(seed), mesh=mesh)
    self.state, self._frozen = started.state, started.frozen
    self._mesh = mesh
    self._update = step.make_update(
        objective, started.optimizer, gamma=gamma,
        shardings=started.shardings, frozen=self._frozen)
    self._casts = self._frozen is None and not model.casts_nothing(
        self.state.params)
    self._cast = jax.jit(model.cast)

  @property
  def params(self) -> Any:
    """The state's parameters; an adapter is joined to its base."""
    params = self.state.params
    return params if self._frozen is None else self._frozen.merge(params)

  def update(self, batch: TokenBatch, micro_batches: int) -> Metrics:
    """Dispatches one update; does not wait for it.

    Args:
      batch: on the host.
      micro_batches: number of micro-batches to split it into.
    """
    micros = [step.place(micro, self._mesh)
              for micro in step.micro_batches(batch, micro_batches)]
    params = self.state.params
    if self._casts:
      params = self._cast(params)  # once for all micro-batches
    self.state, metrics = self._update.run(self.state, micros, params)
    return metrics
