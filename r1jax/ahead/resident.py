"""Memory that a GRPO step holds, by kind and phase, from shapes alone.

It lists which arrays of a run are alive while each of its programs runs, on
device and host. A test compares it with the live arrays of a real run, to the
byte.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.accounting import memory
from r1jax.ahead.aot_config import AheadConfig
from r1jax.core.config import check
from r1jax.core.types import ConversationBatch, TokenBatch
from r1jax.models.model import Model
from r1jax.models.scalar_head import ScalarModel
from r1jax.sharding import rules
from r1jax.training import reshard, step
from r1jax.training import state as state_lib
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import TrainState
from r1jax.training.step import Sums

# masters: the trained parameters, in float32, or in the stored dtype with
#   stochastic rounding. If the compute dtype is the same, there is no copy.
# moments: the optimizer's state.
# compute copy: the parameters in the compute dtype and the training layout.
# decoding copy: the compute copy (or the masters, if there is no copy) in the
#   decode layout while sampling: unstacked layers, sharded differently.
# reference: in the compute dtype, with its router bias.
# teacher: of distillation, in the compute dtype, with its router bias.
# reward models: all of them, likewise.
# gradient sums: float32, of the trained parameters.
# cache: KV cache and state of all rows; while inserting, also the cache of the
#   prefilled prompts.
# batch: the micro-batches of a step.
# other: router bias, counters.
KINDS = ("masters", "moments", "compute copy", "decoding copy", "reference",
         "teacher", "reward models", "gradient sums", "cache", "batch", "other")
PHASES = ("reshard", "prefill", "insert", "decode", "halve", "logprobs",
          "taught", "score", "accumulate", "apply")
HELD = ("mtp",)  # parameters that are not trained (draft=0)
OFFLOADED = {"optimizer": "moments", "reference": "reference",
             "rewards": "reward models"}


class Beside(NamedTuple):
  """Models beside the policy.

  Attributes:
    teacher: the teacher of distillation, of any size.
    rewards: reward models by name.
  """

  teacher: Model | None = None
  rewards: Mapping[str, ScalarModel] = types.MappingProxyType({})


NOBODY = Beside()


class Arrays(NamedTuple):
  """A run's arrays: trees of `jax.ShapeDtypeStruct` with shardings.

  Attributes:
    state: the training state.
    compute: the parameters that compute: differentiated, sampling, scoring.
    decoding: the same in the decode layout.
    lent: whether `compute` are the state's own parameters.
    reference: (parameters, router bias), None if nothing reads it.
    teacher: likewise.
    rewards: (parameters, router bias) of every reward model, by name.
    sums: sums of gradients.
    placed: a micro-batch before judging.
    micro: a micro-batch with all that an update reads.
    asked: a batch of conversations for reward models.
  """

  state: TrainState
  compute: Any
  decoding: Any
  lent: bool
  reference: Any | None
  teacher: Any | None
  rewards: Mapping[str, Any]
  sums: Sums
  placed: TokenBatch
  micro: TokenBatch
  asked: ConversationBatch

  @property
  def policy(self) -> str:
    """The kind of `compute`."""
    return "masters" if self.lent else "compute copy"


class Held(NamedTuple):
  """Bytes by kind that are alive when a phase's program starts.

  Attributes:
    device: on one device.
    host: in host memory, of one device's shards.
  """

  device: Mapping[str, int]
  host: Mapping[str, int]


def arrays(model: Model, cfg: AheadConfig, mesh: Mesh,
           beside: Beside = NOBODY) -> Arrays:
  """The arrays of a run on `mesh`.

  Raises:
    ValueError: bfloat16 parameters would be trained with nearest rounding.
  """
  stochastic = cfg.optimizer.rounding == "stochastic"
  check(stochastic or model.compute.param_dtype == "float32",
        "param_dtype='bfloat16' cannot be trained with nearest rounding: leave"
        " it at float32 (dtype='bfloat16' computes with copies), or set"
        " optimizer.rounding='stochastic'")
  tx = make_optimizer(cfg.optimizer)
  first = jax.eval_shape(model.init, jax.random.key(0))
  held = tuple(name for name in HELD if name in first)
  places = state_lib.shardings(
      model, tx, mesh, zero1=cfg.optimizer.zero1, held=held)
  bias_LE = jax.eval_shape(model.init_router_bias)
  state = _placed(jax.eval_shape(
      lambda p, b: state_lib.create(p, b, tx, held=held,
                                    masters=not stochastic),
      first, bias_LE), places)
  compute = jax.eval_shape(model.cast, state.params)
  decoding = _placed(jax.eval_shape(model.unstack, compute),
                     reshard.shardings(model, mesh, compute))
  compute = _placed(compute, places.params)
  sums = jax.eval_shape(lambda p, b: step.zeros(p, b, held), state.params,
                        bias_LE)
  reference = (_main(compute), state.router_bias_LE)
  placed, micro = _batches(cfg, mesh)
  return Arrays(
      state, compute, decoding,
      model.casts_nothing(state.params),
      reference if cfg.reads_reference else None,
      beside.teacher and _computing(beside.teacher, mesh),
      {name: _computing(one, mesh) for name, one in beside.rewards.items()},
      _placed(sums, Sums(state_lib.trained(places.params, held), places.step,
                         places.step)), placed, micro, _conversations(
                             cfg, mesh))


def phases(cfg: AheadConfig, arrays: Arrays, rows: Any, prompts: Any
           ) -> dict[str, Held]:
  """The memory alive in every phase.

  During an evaluation the step's batch is alive too, beside what is listed for
  a rollout.

  Args:
    cfg: the sizes.
    arrays: result of the function `arrays`.
    rows: shapes of the state of all rows.
    prompts: shapes of the cache of the prompts that are prefilled together.
  """
  size = memory.shard_bytes
  state, count = arrays.state, cfg.epochs * cfg.minibatches * cfg.micro_batches
  always = {"masters": size(state.params),
            "other": size((state.router_bias_LE, state.step))}
  if not arrays.lent:
    always["compute copy"] = size(arrays.compute)
  if arrays.teacher:
    always["teacher"] = size(arrays.teacher)
  idle = {"moments": size(state.opt_state)}
  if arrays.reference:
    idle["reference"] = size(arrays.reference)
  if arrays.rewards:
    idle["reward models"] = size(arrays.rewards)
  away = {OFFLOADED[name] for name in cfg.offload} & set(idle)
  resting = always | {k: v for k, v in idle.items() if k not in away}
  host = {k: v for k, v in idle.items() if k in away}

  sampling = resting | {"decoding copy": size(arrays.decoding)}
  del sampling[arrays.policy]
  placed, mask = count * size(arrays.placed), size(arrays.micro.mask_BT)
  # While the last micro-batch is scored, the fixed log-probabilities of the
  # others exist already; the teacher's come last.
  taught = bool(cfg.distill.factor)
  fixed = cfg.minibatches * cfg.micro_batches * (
      cfg.reads_reference + (not cfg.on_policy) + taught)
  scored = placed + max(0, fixed - 1 - taught) * mask
  training = {"gradient sums": size(arrays.sums),
              "batch": count * size(arrays.micro)}
  apply = resting | training | {"moments": idle["moments"]}
  apply.pop("compute copy", None)
  reading = resting | (
      {"reference": idle["reference"]} if arrays.reference else {})
  decoding = Held(sampling | {"cache": size(rows)}, host)
  return {
      "reshard": Held(resting, host), "prefill": Held(sampling, host),
      "insert": Held(sampling | {"cache": size((rows, prompts))}, host),
      "decode": decoding, "halve": decoding,
      "logprobs": Held(reading | {"batch": scored}, host),
      "taught": Held(reading | {"batch": placed + max(0, fixed - 1) * mask},
                     host),
      "score": _scoring(resting, idle, host, placed + fixed * mask + size(
          arrays.asked), arrays),
      "accumulate": Held(resting | training, host),
      "apply": Held(apply, {k: v for k, v in host.items() if k != "moments"})}


def _scoring(resting, idle, host, batch: int, arrays: Arrays) -> Held:
  """If reward models are offloaded, one at a time is on the device."""
  if "reward models" not in host:
    return Held(resting | {"batch": batch}, host)
  most = max(memory.shard_bytes(one) for one in arrays.rewards.values())
  away = {k: v - most * (k == "reward models") for k, v in host.items()}
  return Held(resting | {"batch": batch, "reward models": most},
              {k: v for k, v in away.items() if v})


def _computing(model: Model | ScalarModel, mesh: Mesh) -> Any:
  """(parameters, router bias) of a model that is not trained."""
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  places = rules.param_shardings(model.param_axes(), shapes, mesh)
  bias_LE = jax.eval_shape(model.init_router_bias)
  return (_placed(jax.eval_shape(model.cast, shapes), places),
          whole(bias_LE, mesh))


def _conversations(cfg, mesh) -> ConversationBatch:
  devices = mesh.size
  shape = -(-cfg.model_rows // devices) * devices, cfg.model_length
  ints, floats = (
      jax.ShapeDtypeStruct(shape, dtype, sharding=step.batch_sharding(mesh))
      for dtype in (jnp.int32, jnp.float32))
  return ConversationBatch(
      tokens_BT=ints, segments_BT=ints, positions_BT=ints, mask_BT=floats,
      labels_BT=floats, weights_BT=floats)


def _main(params):
  """The parameters without the MTP module."""
  return {name: part for name, part in params.items() if name != "mtp"}


def _batches(cfg, mesh) -> tuple[TokenBatch, TokenBatch]:
  shape = (cfg.micro, cfg.length)
  ints, floats = (
      jax.ShapeDtypeStruct(shape, dtype, sharding=step.batch_sharding(mesh))
      for dtype in (jnp.int32, jnp.float32))
  placed = TokenBatch(
      tokens_BT=ints, targets_BT=ints, segments_BT=ints, positions_BT=ints,
      mask_BT=floats, sampler_logprobs_BT=floats)
  return placed, placed.replace(
      advantages_BT=floats,
      ref_logprobs_BT=floats if cfg.reads_reference else None,
      old_logprobs_BT=None if cfg.on_policy else floats,
      teacher_logprobs_BT=floats if cfg.distill.factor else None)


def _placed(shapes, places):
  return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes, places)


def whole(shape: jax.ShapeDtypeStruct, mesh: Mesh) -> jax.ShapeDtypeStruct:
  """A shape with the replicated sharding."""
  return jax.ShapeDtypeStruct(
      shape.shape, shape.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
