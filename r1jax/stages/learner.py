"""The device side of GRPO: policy, reference, and updates from one rollout."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.core.types import TokenBatch
from r1jax.data.streams import minibatches
from r1jax.data.streams.minibatches import Minibatch
from r1jax.sharding import processes
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.weights import Handover, Weights, computing
from r1jax.training import logprobs as logprobs_lib
from r1jax.training import objectives, reshard, step, step_pmap
from r1jax.training import state as state_lib
from r1jax.training.metrics import Metrics

Micros = list[TokenBatch]  # the micro-batches of one update, on the device


class Learner:
  """Holds the policy's state and the reference policy between steps.

  On the device are the float32 masters and their moments; a copy in the compute
  dtype, if that is another one, which samples, scores and is differentiated;
  and, in the compute dtype, the reference policy and the teacher if the config
  needs them.
  """

  def __init__(self, cfg: GrpoConfig, initial: Handover,
               mesh: jax.sharding.Mesh | None,
               teacher: Weights | None = None):
    """Takes over the first parameters and places the state.

    Args:
      cfg: the settings.
      initial: the model and its first parameters; their arrays are moved.
      mesh: to train on; None for one device.
      teacher: for distillation.
    """
    weights = initial.take()
    self.teacher = teacher and computing(teacher, mesh)
    self.cfg, self.mesh, self.model = cfg, mesh, weights.model
    place = mesh if cfg.driver == "mesh" else None
    started = state_lib.start(
        weights.model, weights.params, weights.router_bias_LE, cfg.optimizer,
        adapter=cfg.lora, key=jax.random.key(cfg.seed), mesh=place,
        held=() if cfg.draft else ("mtp",))
    self.state, self.frozen = started.state, started.frozen
    policy = cfg.policy
    if policy.aggregation == "constant" and not policy.max_length:
      policy = dataclasses.replace(policy, max_length=max(cfg.max_new_tokens))
    objective = objectives.grpo_objective(
        weights.model, policy, balance=cfg.balance, draft=cfg.draft,
        temperature=cfg.temperature, distill=cfg.distill,
        teacher=teacher and teacher.model)
    options = dict(gamma=cfg.bias_update_speed, held=(*started.held, "teacher"))
    self._beside = {}  # the teacher's parameters, if the objective reads them
    if cfg.distill.divergence:
      self._beside = objectives.teacher_part(
          self.teacher.params, self.teacher.router_bias_LE)
    frozen = self.frozen
    if frozen is not None:  # the update merges only the adapter into the base
      frozen = frozen.replace(params=frozen.params | self._beside)
      self._beside = {}
    if cfg.driver == "pmap":
      self._update = step_pmap.make_update(
          objective, started.optimizer, **options)
    else:
      self._update = step.make_update(
          objective, started.optimizer, shardings=started.shardings,
          frozen=frozen, **options)
    # Leaves that keep their dtype are copied too, since the result is donated.
    self._cast = jax.jit(lambda params: weights.model.cast(
        jax.tree.map(jnp.copy, params)))
    self._casts = self.frozen is None and not self.model.casts_nothing(
        self.state.params)
    self._compute = None
    self._decoding = reshard.Decoding(weights.model, place, self.params)
    self._logprobs = logprobs_lib.make_logprobs(
        weights.model, cfg.temperature)
    self._taught = teacher and logprobs_lib.make_logprobs(
        teacher.model, cfg.temperature)
    self.reference = self._copied() if cfg.reads_reference else None
    self.updates = 0
    self.rest()

  def on_mesh(self) -> contextlib.AbstractContextManager:
    """The context that all device work runs in."""
    return step.on_mesh(self.mesh)

  @property
  def params(self) -> Any:
    """The policy's masters, an adapter joined to its base."""
    params = self.state.params
    return params if self.frozen is None else self.frozen.merge(params)

  @property
  def policy(self) -> Any:
    """The policy's parameters in the compute dtype, cast once per update."""
    if not self._casts:
      return self.params
    if self._compute is None:
      self._compute = self._cast(self.state.params)
    return self._compute

  @contextlib.contextmanager
  def sampling(self) -> Iterator[Any]:
    """Yields the policy's parameters in the decode layout.

    The compute copy is moved to that layout and back, so that there is only one
    copy: inside the block `policy` is invalid, and so is `state.params` where
    the masters compute themselves. With an adapter a copy is made instead.
    """
    if self.frozen is not None:
      yield self._decoding.there(self.policy, donate=False)
      return
    own = self.policy is self.state.params
    params = self._decoding.there(self.policy, donate=True)
    self._compute = None
    try:
      yield params
    finally:
      params = self._decoding.back(params)
      if own:
        self.state = self.state.replace(params=params)
      else:
        self._compute = params

  def rest(self) -> None:
    """Moves what cfg.offload names to host memory."""
    if "optimizer" in self.cfg.offload:
      self.state = self.state.replace(
          opt_state=reshard.on(self.state.opt_state, reshard.HOST))
    if "reference" in self.cfg.offload and self.reference is not None:
      self.reference = reshard.on(self.reference, reshard.HOST)

  def arrays(self) -> dict[str, Any]:
    """Everything on the device that a checkpoint must hold.

    For LoRA that is the adapter; its base is loaded from --init again.
    """
    kept = {} if self.reference is None else {"reference": self.reference}
    return vars(self.state) | kept

  def load(self, arrays: dict[str, Any]) -> None:
    """Restores what `arrays` returned."""
    arrays = dict(arrays)
    self.reference = arrays.pop("reference", None)
    self.state = state_lib.TrainState(**arrays)
    self.updates = int(self.state.step)
    self._compute = None
    self.rest()

  def place(self, packed: Sequence[Minibatch]) -> list[Micros]:
    """Puts the micro-batches of every minibatch on the device.

    They have no advantages yet. A minibatch has rows of all processes.
    """
    return [self.placed(minibatch.batch) for minibatch in packed]

  def placed(self, batch: TokenBatch) -> Micros:
    """Puts the micro-batches of one minibatch on the device."""
    return [self._place(micro) for micro in self._micros(batch)]

  def on_host(self, micros: Micros) -> TokenBatch:
    """This process's rows of a minibatch, as NumPy arrays."""
    rows = [processes.own_rows(micro) for micro in micros]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)

  def fixed_logprobs(self, placed: Sequence[Micros]
                     ) -> list[list[dict[str, jax.Array]]]:
    """Log-probabilities that are fixed during the updates, by micro-batch.

    Those of the reference policy and of the teacher if the config needs them,
    and those of the old policy if several updates follow. With one update the
    policy has not changed since it sampled, so its own are the old ones.
    """
    wanted = {}
    if self.cfg.reads_reference:
      reference = reshard.on(self.reference, reshard.DEVICE)
      params = reference["params"]
      if self.frozen is not None:
        params = self.frozen.merge(params)
      wanted["ref_logprobs_BT"] = params, reference["router_bias_LE"]
    if not self.cfg.on_policy:
      wanted["old_logprobs_BT"] = self.policy, self.state.router_bias_LE

    def of(micro):
      # The reference routes by itself; recorded experts are the policy's.
      without = micro.replace(experts_BTLA=None)
      logprobs = {name: step.paced(self._logprobs(
          *policy, without if name == "ref_logprobs_BT" else micro)[0])
                  for name, policy in wanted.items()}
      if self.cfg.distill.factor:  # at the student's temperature
        logprobs["teacher_logprobs_BT"] = step.paced(self._taught(
            self.teacher.params, self.teacher.router_bias_LE, without)[0])
      return logprobs

    return [[of(micro) for micro in micros] for micros in placed]

  def ready(self, packed: Sequence[Minibatch], placed: Sequence[Micros],
            fixed: Sequence[Sequence[dict[str, jax.Array]]],
            advantages_QG: np.ndarray, keep_QG: np.ndarray) -> list[Micros]:
    """The micro-batches of all updates with everything that an update reads.

    Args:
      packed: minibatches of all epochs.
      placed: the same on the device.
      fixed: `fixed_logprobs` of the first epoch's minibatches.
      advantages_QG: of this process's samples.
      keep_QG: bool, the samples that are trained on.
    """
    first = len(fixed)
    later = self._relaid(packed, fixed) if len(packed) > first else []
    batches = []
    for minibatch, micros, logprobs in zip(
        packed, placed, [*fixed, *later], strict=True):
      trained = self._micros(minibatch.trained(advantages_QG, keep_QG))
      batches.append([micro.replace(**self._place(arrays), **known)
                      for micro, arrays, known in zip(
                          micros, trained, logprobs, strict=True)])
    return batches

  def _relaid(self, packed, fixed):
    """The fixed log-probabilities in the rows of the later epochs."""
    size, relaid = len(fixed), []
    host = [{name: np.concatenate([processes.own_rows(d[name]) for d in part])
             for name in part[0]} for part in fixed]
    for begin in range(size, len(packed), size):
      epoch = packed[begin:begin + size]
      laid = {name: minibatches.relaid(
          [part[name] for part in host], packed[:size], epoch)
              for name in host[0]}
      for number in range(size):
        relaid.append([self._place(m) for m in self._micros(
            {name: values[number] for name, values in laid.items()})])
    return relaid

  def update(self, micros: Micros) -> Metrics:
    """Dispatches one update and does not wait for it; returns its metrics."""
    if self.cfg.driver == "pmap":
      micros = [step_pmap.shard(m, jax.device_count()) for m in micros]
    policy = self.state.params if self.frozen is not None else self.policy
    sums, summed = self._update.sum(self.state, micros, policy | self._beside)
    # Frees the compute copy before the moments come back from host memory.
    self._compute = policy = None
    self.state = self.state.replace(
        opt_state=reshard.on(self.state.opt_state, reshard.DEVICE))
    self.state, applied = self._update.apply(self.state, sums)
    del sums  # before the next compute copy is made
    self.updates += 1
    if self.reference is not None and (
        self.updates % self.cfg.reference_every == 0):
      self.reference = None  # frees it before the next one is copied
      self.reference = self._copied()
    self.rest()
    return step.joined(summed, applied)

  def compilations(self) -> int:
    """Programs of updates and log-probabilities compiled so far."""
    fixed = [f for f in (self._logprobs, self._taught) if f is not None]
    return self._update.compilations() + sum(f._cache_size() for f in fixed)

  def _micros(self, tree: Any) -> list[Any]:
    """This process's rows of every micro-batch."""
    rows = len(jax.tree.leaves(tree)[0]) * jax.process_count()
    return step.micro_batches(tree, rows // self.cfg.micro_rows)

  def _place(self, micro: Any) -> Any:
    mesh = None if self.cfg.driver == "pmap" else self.mesh
    return step.place(micro, mesh, parts=True)

  def _copied(self) -> dict[str, Any]:
    """A copy of the present policy, as the new reference."""
    if self.frozen is not None:
      params = jax.tree.map(jnp.copy, self.state.params)
    else:
      params = {name: part for name, part in self.policy.items()
                if name != "mtp"}
      params = jax.tree.map(jnp.copy, params)
    return {"params": params,
            "router_bias_LE": jnp.copy(self.state.router_bias_LE)}


def named(metrics: dict[str, float]) -> dict[str, float]:
  """Metrics under their logged names: `policy/...`, `rollout/logp_diff`."""
  renamed = {}
  for name, value in metrics.items():
    if name in ("logp_diff", "logp_diff_max", "flip_rate"):
      name = f"rollout/{name}"
    elif "/" not in name and name not in ("skipped", "loss", "grad_norm"):
      name = f"policy/{name}"
    renamed[name] = value
  return renamed
