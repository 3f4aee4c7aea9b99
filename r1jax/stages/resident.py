"""What a step of GRPO holds, by kind and phase, from shapes alone.

The one place that says which arrays of a run are alive while one of its
programs runs, and where. A test compares it with a real run, to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.accounting import memory
from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.models.model import Model
from r1jax.stages.aot_config import AheadConfig
from r1jax.training import reshard, step
from r1jax.training import state as state_lib
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import TrainState
from r1jax.training.step import Sums

# masters: the trained parameters, float32, or as they are kept where updates
#   are rounded stochastically. In float32 arithmetic they also compute.
# moments: the optimizer's state.
# compute copy: the parameters in the compute dtype, laid out for training.
# decoding copy: what the compute copy becomes while it samples (in float32
#   arithmetic: what the masters become): each layer its own arrays, on a mesh
#   split otherwise.
# reference: in the compute dtype, with its router bias.
# gradient sums: float32, of what is trained.
# cache: of all rows that are decoded, and the rows' own state.
# batch: the micro-batches of a step.
# other: router bias, counters.
KINDS = ("masters", "moments", "compute copy", "decoding copy", "reference",
         "gradient sums", "cache", "batch", "other")
PHASES = ("reshard", "prefill", "decode", "halve", "logprobs", "accumulate",
          "apply")
HELD = ("mtp",)  # what reinforcement learning does not train
_OFFLOADED = {"optimizer": "moments", "reference": "reference"}


class Arrays(NamedTuple):
  """What a run holds: trees of `jax.ShapeDtypeStruct` with shardings.

  Attributes:
    state: of training.
    compute: parameters that are differentiated, sample and score.
    decoding: the same, ready to decode.
    lent: whether `compute` are the state's own parameters.
    reference: (parameters, router bias), None where nothing reads it.
    sums: of gradients.
    placed: a micro-batch as it is first placed.
    micro: a micro-batch as an update reads it.
  """

  state: TrainState
  compute: Any
  decoding: Any
  lent: bool
  reference: Any | None
  sums: Sums
  placed: TokenBatch
  micro: TokenBatch

  @property
  def policy(self) -> str:
    """The kind that `compute` is of."""
    return "masters" if self.lent else "compute copy"


class Held(NamedTuple):
  """Bytes by kind that are alive when a phase's program begins.

  Attributes:
    device: on one device.
    host: of one device's parts, in host memory.
  """

  device: Mapping[str, int]
  host: Mapping[str, int]


def arrays(model: Model, cfg: AheadConfig, mesh: Mesh) -> Arrays:
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
      _placed(sums, Sums(state_lib.trained(places.params, held), places.step,
                         places.step)), placed, micro)


def phases(cfg: AheadConfig, arrays: Arrays, rows: Any) -> dict[str, Held]:
  """What is alive in every phase.

  An evaluation is a rollout beside which the step's batch is alive as well.

  Args:
    cfg: the sizes.
    arrays: what the function `arrays` gives.
    rows: state of all rows that are decoded, shapes.
  """
  size = memory.shard_bytes
  state, count = arrays.state, cfg.epochs * cfg.minibatches * cfg.micro_batches
  always = {"masters": size(state.params),
            "other": size((state.router_bias_LE, state.step))}
  if not arrays.lent:
    always["compute copy"] = size(arrays.compute)
  idle = {"moments": size(state.opt_state)}
  if arrays.reference:
    idle["reference"] = size(arrays.reference)
  away = {_OFFLOADED[name] for name in cfg.offload} & set(idle)
  resting = always | {k: v for k, v in idle.items() if k not in away}
  host = {k: v for k, v in idle.items() if k in away}

  sampling = resting | {"decoding copy": size(arrays.decoding)}
  del sampling[arrays.policy]
  # The last micro-batch, beside the fixed log-probabilities of the others.
  fixed = cfg.minibatches * cfg.micro_batches * (
      cfg.reads_reference + (not cfg.on_policy))
  scored = count * size(arrays.placed) + max(0, fixed - 1) * size(
      arrays.micro.mask_BT)
  training = {"gradient sums": size(arrays.sums),
              "batch": count * size(arrays.micro)}
  apply = resting | training | {"moments": idle["moments"]}
  apply.pop("compute copy", None)
  decoding = Held(sampling | {"cache": size(rows)}, host)
  return {
      "reshard": Held(resting, host), "prefill": Held(sampling, host),
      "decode": decoding, "halve": decoding,
      "logprobs": Held(resting | {"batch": scored} | (
          {"reference": idle["reference"]} if arrays.reference else {}), host),
      "accumulate": Held(resting | training, host),
      "apply": Held(apply, {k: v for k, v in host.items() if k != "moments"})}


def _main(params):
  """Without the module that only pre-training reads (MTP)."""
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
      old_logprobs_BT=None if cfg.on_policy else floats)


def _placed(shapes, places):
  return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes, places)


def whole(shape: jax.ShapeDtypeStruct, mesh: Mesh) -> jax.ShapeDtypeStruct:
  """A shape that every device has all of."""
  return jax.ShapeDtypeStruct(
      shape.shape, shape.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
