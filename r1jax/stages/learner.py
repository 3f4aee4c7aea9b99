"""The device side of GRPO: policy, reference, and updates on one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from r1jax.core.types import TokenBatch
from r1jax.stages.weights import Weights
from r1jax.training import logprobs as logprobs_lib
from r1jax.training import (
  lora,
  objectives,
  optimizer,
  reshard,
  step,
  step_pmap,
)
from r1jax.training import metrics as metrics_lib
from r1jax.training import state as state_lib

if TYPE_CHECKING:
  from r1jax.stages.grpo import GrpoConfig


class Learner:
  """Holds the policy's state and the reference policy between steps."""

  def __init__(self, cfg: GrpoConfig, weights: Weights,
               mesh: jax.sharding.Mesh | None):
    """Places the state; compiles nothing yet."""
    self.cfg, self.mesh = cfg, mesh
    tx = optimizer.make_optimizer(cfg.optimizer)
    objective = objectives.grpo_objective(
        weights.model, cfg.policy, balance=cfg.balance,
        temperature=cfg.temperature)
    place = mesh if cfg.driver == "mesh" else None
    self.state, self.frozen, placed = state_lib.start(
        weights.model, weights.params, weights.router_bias_LE, tx,
        adapter=cfg.lora, key=jax.random.key(cfg.seed), mesh=place,
        zero1=cfg.optimizer.zero1)
    self.reference = self._copy()
    self._rest()
    if cfg.driver == "pmap":
      self._update = step_pmap.make_update(objective, tx, gamma=cfg.gamma)
    else:
      self._update = step.make_update(objective, tx, gamma=cfg.gamma,
                                      shardings=placed, frozen=self.frozen)
    self._merge = lora.make_merge(self.frozen)
    self._merged = None
    self._decoding = reshard.Decoding(
        weights.model, place, self.params)
    self._logprobs = logprobs_lib.make_logprobs(
        weights.model, cfg.temperature)
    self.updates = 0

  def on_mesh(self) -> contextlib.AbstractContextManager:
    """The context that all device work runs in."""
    return step.on_mesh(self.mesh)

  @property
  def params(self) -> Any:
    """The policy's parameters, with the adapter beside them."""
    if self.frozen is None:
      return self.state.params
    if self._merged is None:
      self._merged = self._merge(self.state.params)
    return self._merged

  @contextlib.contextmanager
  def sampling(self) -> Iterator[Any]:
    """The policy's parameters laid out for decoding, while the block runs.

    Where they keep their dtype they move there and back, so that there is one
    copy of them; `state.params` is of no use meanwhile. Else a copy is made.
    """
    moves = self.frozen is None and self._decoding.lossless
    params = self._decoding.there(self.params, donate=moves)
    try:
      yield params
    finally:
      if moves:
        self.state = self.state.replace(params=self._decoding.back(params))

  def _rest(self) -> None:
    """Puts what cfg.offload names into host memory, until it is needed."""
    if "optimizer" in self.cfg.offload:
      self.state = self.state.replace(
          opt_state=reshard.on(self.state.opt_state, reshard.HOST))
    if "reference" in self.cfg.offload:
      self.reference = reshard.on(self.reference, reshard.HOST)

  def arrays(self) -> dict[str, Any]:
    """Everything on the device that a checkpoint must hold.

    Of a LoRA run that is the adapter; what it adapts is in --init.
    """
    return vars(self.state) | {"reference": self.reference}

  def load(self, arrays: dict[str, Any]) -> None:
    """Takes back what `arrays` gave."""
    arrays = dict(arrays)
    self.reference = arrays.pop("reference")
    self.state = state_lib.TrainState(**arrays)
    self._merged = None
    self._rest()

  def fixed_logprobs(self, batches: list[TokenBatch]
                     ) -> list[dict[str, jax.Array]]:
    """Log-probabilities that stay fixed during the updates, one dict a batch.

    The batches are the rows of this process, as many as those of the others.
    The reference policy's where the KL penalty is on; the old policy's where
    more than one update follows (with one, the policy has not moved since it
    sampled, and its own log-probabilities are the old ones).
    """
    wanted = {}
    if self.cfg.policy.kl_beta:
      reference = reshard.on(self.reference, reshard.DEVICE)
      wanted["ref_logprobs_BT"] = (self._merge(reference["params"]),
                                   reference["router_bias_LE"])
    if not self.cfg.on_policy:
      wanted["old_logprobs_BT"] = self.params, self.state.router_bias_LE
    if not wanted:
      return [{} for _ in batches]
    placed = [self._place(batch) for batch in batches]
    return [{name: self._logprobs(*policy, batch)[0]
             for name, policy in wanted.items()} for batch in placed]

  def update(self, batches: list[TokenBatch],
             fixed: list[dict[str, jax.Array]]) -> dict[str, float]:
    """cfg.epochs passes over the minibatches; the mean of their metrics."""
    seen = []
    self.state = self.state.replace(
        opt_state=reshard.on(self.state.opt_state, reshard.DEVICE))
    for _ in range(self.cfg.epochs):
      for batch, logprobs in zip(batches, fixed, strict=True):
        micro = self._place(batch).replace(**logprobs)
        if self.cfg.driver == "pmap":
          micro = step_pmap.shard(micro, jax.device_count())
        self.state, metrics = self._update(self.state, micro)
        self._merged = None
        seen.append(metrics)
        self.updates = int(self.state.step)
        if self.updates % self.cfg.reference_every == 0:
          self.reference = self._copy()
    self._rest()
    return named(metrics_lib.floats(*seen))

  def _place(self, batch: TokenBatch) -> TokenBatch:
    """Micro-batches on the device, of the rows of all processes."""
    rows = len(batch.tokens_BT) * jax.process_count()
    return step.place_parts(
        batch, rows // self.cfg.micro_rows,
        None if self.cfg.driver == "pmap" else self.mesh)

  def _copy(self) -> dict[str, Any]:
    return jax.tree.map(jnp.copy, {
        "params": self.state.params,
        "router_bias_LE": self.state.router_bias_LE})


def named(metrics: dict[str, float]) -> dict[str, float]:
  """Metrics under the names of the log: `policy/...`, `rollout/logp_diff`."""
  found = {}
  for name, value in metrics.items():
    if name in ("logp_diff", "logp_diff_max", "flip_rate"):
      name = f"rollout/{name}"
    elif "/" not in name and name not in ("skipped", "loss", "grad_norm"):
      name = f"policy/{name}"
    found[name] = value
  return found
