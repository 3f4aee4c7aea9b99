"""The programs of a run, lowered from shapes alone: nothing is allocated.

They are the functions that training calls, for a mesh of devices that need not
be there. Beside each stands what it should cost, counted from the config.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from r1jax.accounting import flops, memory
from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.losses.policy import PolicyConfig
from r1jax.models.model import Model
from r1jax.ops import ragged_exchange
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import rules
from r1jax.training import logprobs, objectives, reshard, state, step
from r1jax.training.optimizer import OptimizerConfig, make_optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class AheadConfig:
  """Sizes of the programs; the defaults are R1's."""

  rows: int = 512  # sequences of an update, and of a decode step
  length: int = 32768  # tokens of a row, slots of the cache
  micro_batches: int = 1  # parts that an update's rows are done in
  prompt: int = 1024  # tokens of the prompts whose answers are decoded
  policy: PolicyConfig = PolicyConfig(kl_beta=0.001)
  optimizer: OptimizerConfig = OptimizerConfig(
      lr=3e-6, moments="bfloat16")
  offload: tuple[str, ...] = ()  # in host memory while idle: GrpoConfig.offload

  def __post_init__(self):
    for name in ("rows", "length", "micro_batches", "prompt"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
    check(self.rows % self.micro_batches == 0, f"rows={self.rows} do not divide"
          f" into micro_batches={self.micro_batches}")
    check(self.prompt < self.length, f"prompt={self.prompt} leaves nothing of"
          f" length={self.length} to decode")


@dataclasses.dataclass(frozen=True)
class Program:
  """A program to compile.

  Attributes:
    name: `update`, `logprobs`, `reshard`, `prefill` or `decode`.
    lower: () -> `jax.stages.Lowered`.
    arguments: what it reads, by kind, trees of `jax.ShapeDtypeStruct` with
      shardings.
    flops: matrix operations of one step on one device, counted from the
      config: padding of any kind is not in it.
    steps: that one run makes: tokens of a decode loop, else 1.
    trips: how often loops run whose count is decided when running.
    kept: bytes on one device that the forward pass keeps for the backward.
    resident: bytes on one device of what other programs need, by kind.
  """

  name: str
  lower: Callable[[], jax.stages.Lowered]
  arguments: Mapping[str, Any]
  flops: float = 0.0
  steps: int = 1
  trips: Mapping[str, float] = dataclasses.field(default_factory=dict)
  kept: int = 0
  resident: Mapping[str, int] = dataclasses.field(default_factory=dict)


def programs(model: Model, cfg: AheadConfig, mesh: Mesh) -> dict[str, Program]:
  """All programs of a GRPO step, by name.

  Raises:
    ValueError: rows or tokens do not divide over the mesh, or the model's
      context is shorter than `length`.
  """
  model.cfg.check_length(cfg.length, "length")
  step.check_rows(cfg.rows, cfg.micro_batches, cfg.length, mesh)
  shards = rules.batch_shards(mesh, "decode")
  check(cfg.rows % shards == 0, f"rows={cfg.rows} do not divide over the"
        f" {shards} devices that decoding splits rows over")
  tx = make_optimizer(cfg.optimizer)
  places = state.shardings(model, tx, mesh, zero1=cfg.optimizer.zero1)
  shapes = jax.eval_shape(
      lambda key: state.create(model.init(key), model.init_router_bias(), tx),
      jax.random.key(0))
  before = _placed(shapes, places)
  held = _held(cfg, before)
  found = (_update(model, cfg, mesh, tx, before, held),
           _logprobs(model, cfg, mesh, held), _reshard(model, mesh, held),
           *_sampling(model, cfg, mesh, held))
  return {program.name: program for program in found}


def _held(cfg, before) -> dict[str, int]:
  """Bytes of what lives on the device from step to step."""
  params = memory.shard_bytes(before.params)
  held = {"policy": params, "optimizer": memory.shard_bytes(before.opt_state),
          "reference": params if cfg.policy.kl_beta else 0}
  return {name: 0 if name in cfg.offload else size
          for name, size in held.items()}


def _others(held, *names) -> dict[str, int]:
  return {name: size for name, size in held.items() if name not in names}


def _update(model, cfg, mesh, tx, before, held) -> Program:
  objective = objectives.grpo_objective(model, cfg.policy)
  update = step.make_update(
      objective, tx, shardings=jax.tree.map(lambda x: x.sharding, before))
  batch = _batch(cfg, mesh, bool(cfg.policy.kl_beta))
  tokens = cfg.rows * cfg.length
  once = _forward(model, cfg) * tokens
  return Program(
      "update", _under(mesh, update, before, batch),
      {"parameters": before.params, "optimizer": before.opt_state,
       "batch": batch, "other": (before.router_bias_LE, before.step)},
      flops=(3 * once + tokens * _again(model, cfg, mesh)) / mesh.size,
      trips=_rounds(model, cfg, mesh),
      kept=_kept(model, objective, before, batch, mesh),
      resident=_others(held, "policy", "optimizer"))


def _forward(model, cfg) -> float:
  """Operations of a token's forward pass in a causal row."""
  return flops.forward(model.cfg, (cfg.length + 1) / 2)


def _again(model, cfg, mesh) -> float:
  """Operations of a token that the backward pass does a second time.

  The head and attention's scores in any case: a TPU's kernels form these for
  the gradient of the queries and again, with the products of values, for that
  of keys and values. With remat the layers too, without the last product of a
  feed-forward, whose result only the next layer needs. Routed experts are
  computed again with all of it, where the gradients of their gates arrive.
  """
  c = model.cfg
  key, value = flops.head_widths(c)
  pair = 2 * key + value if mesh.devices.flat[0].platform == "tpu" else key
  scores = c.n_layers * 2 * pair * (cfg.length + 1) / 2
  if model.compute.remat != "full":
    return scores + 2 * c.d_model * c.vocab_size
  widths = (c.n_layers - c.n_mixture_layers) * c.d_ff + (
      c.n_mixture_layers * c.n_shared * c.d_expert)
  return scores + _forward(model, cfg) - 2 * c.d_model * widths


def _rounds(model, cfg, mesh, rows: int = 0, layout: str = "train"
            ) -> dict[str, float]:
  """Rounds of an exchange of tokens under a balanced router."""
  ways = math.prod(mesh.shape[a] for name in ("act_batch", "act_length")
                   for a in rules.LAYOUTS[layout][name])
  rows = rows or cfg.rows // cfg.micro_batches
  tokens, activated = rows * cfg.length // ways, model.cfg.n_activated
  if not activated:
    return {}
  pairs = tokens * activated // ragged_exchange.chunks(tokens, activated)
  return {ragged_exchange.SCOPE: pairs / ragged_exchange.capacity(pairs)}


def _kept(model, objective, before, batch, mesh) -> int:
  """Bytes on one device of what a micro-batch keeps for its backward pass.

  Residuals that are no parameters, taken as split over rows and positions.
  """
  def transpose(params, bias_LE, batch):
    micro = jax.tree.map(lambda x: x[0], batch)
    return jax.vjp(
        lambda p: objective.evaluate(p, bias_LE, micro).terms["policy"][0],
        params)[1]

  with jax.set_mesh(mesh):
    saved = jax.eval_shape(
        transpose, before.params, before.router_bias_LE, batch)
  shapes = {leaf.shape for leaf in jax.tree.leaves(before.params)}
  total = sum(memory.shard_bytes(leaf) for leaf in jax.tree.leaves(saved)
              if leaf.shape not in shapes)
  return total // (rules.batch_shards(mesh) * mesh.shape["sequence"])


def _logprobs(model, cfg, mesh, held) -> Program:
  params, bias_LE = _policy(model, mesh, "train")
  batch = _batch(cfg, mesh, False)
  run = logprobs.make_logprobs(model)
  return Program(
      "logprobs", _under(mesh, run, params, bias_LE, batch),
      {"parameters": _main(params), "other": bias_LE,
       "batch": (batch.tokens_BT, batch.targets_BT, batch.segments_BT,
                 batch.positions_BT)},
      flops=_forward(model, cfg) * cfg.rows * cfg.length / mesh.size,
      trips=_rounds(model, cfg, mesh), resident=_others(held, "reference"))


def _reshard(model, mesh, held) -> Program:
  params, _ = _policy(model, mesh, "train")
  run = reshard.make_reshard(model, mesh, "decode")
  return Program("reshard", _under(mesh, run, params), {"parameters": params},
                 resident=_others(held, "policy"))


def _sampling(model, cfg, mesh, held) -> tuple[Program, Program]:
  """Prefill of whole rows, and decoding after prompts."""
  params, bias_LE = _policy(model, mesh, "decode")
  engine = Engine(model, SamplingConfig(
      max_new_tokens=cfg.length - cfg.prompt), frozenset({0}), mesh)

  def inputs(prompt):
    shapes = (((cfg.rows, prompt), jnp.int32), ((cfg.rows,), jnp.int32),
              ((cfg.rows,), jnp.uint32), ((cfg.rows, 1), jnp.int32))
    place = rules.batch_sharding(mesh, "decode")
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (*(jax.ShapeDtypeStruct(*s, sharding=place) for s in shapes),
            _whole(key, mesh))

  head = 2 * model.cfg.d_model * model.cfg.vocab_size
  # Every row is a prompt of its own.
  prompts = inputs(cfg.length)
  prefill = Program(
      "prefill", _under(mesh, engine.start_program, params, bias_LE, *prompts,
                        samples=1, new=1),
      {"parameters": _main(params), "batch": prompts, "other": bias_LE},
      flops=cfg.rows * (cfg.length * (_forward(model, cfg) - head) + head
                        ) / mesh.size,
      trips=_rounds(model, cfg, mesh, cfg.rows, "decode"), resident=held)
  new = cfg.length - cfg.prompt
  with jax.set_mesh(mesh):
    rows, _ = jax.eval_shape(
        lambda *args: engine.start_program(
            *args, samples=1, new=new),
        params, bias_LE, *inputs(cfg.prompt))
  rows = jax.tree.map(
      lambda axes, x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=NamedSharding(mesh, rules.fitted(
              axes, x.shape, dict(mesh.shape), "decode"))),
      engine.row_axes(rows), rows, is_leaf=rules.is_axes)
  stop = _whole(jax.ShapeDtypeStruct((), jnp.int32), mesh)
  decode = Program(
      "decode", _under(mesh, engine.run_program, params, bias_LE, rows, stop,
                       until=0),
      {"parameters": _main(params), "cache": rows.cache,
       "other": (bias_LE, rows._replace(cache=None), stop)},
      flops=cfg.rows * flops.forward(
          model.cfg, cfg.length, absorbed=model.cfg.attention == "mla"
      ) / mesh.size,
      steps=new, trips={"while": new}, resident=held)
  return prefill, decode


def _under(mesh, run, *args, **static) -> Callable[[], jax.stages.Lowered]:
  def lower():
    with jax.set_mesh(mesh):
      return run.lower(*args, **static)
  return lower


def _policy(model, mesh, layout):
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  if layout == "decode":
    shapes = jax.eval_shape(model.cast, shapes)
  places = rules.param_shardings(model.param_axes(), shapes, mesh, layout)
  bias_LE = jax.eval_shape(model.init_router_bias)
  return _placed(shapes, places), _whole(bias_LE, mesh)


def _main(params):
  """Without the module that only pre-training reads (MTP)."""
  return {name: part for name, part in params.items() if name != "mtp"}


def _batch(cfg, mesh, reference) -> TokenBatch:
  shape = (cfg.micro_batches, cfg.rows // cfg.micro_batches, cfg.length)
  ints, floats = (
      jax.ShapeDtypeStruct(shape, dtype, sharding=step.batch_sharding(mesh))
      for dtype in (jnp.int32, jnp.float32))
  return TokenBatch(
      tokens_BT=ints, targets_BT=ints, segments_BT=ints, positions_BT=ints,
      mask_BT=floats, advantages_BT=floats, sampler_logprobs_BT=floats,
      ref_logprobs_BT=floats if reference else None)


def _placed(shapes, places):
  return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes, places)


def _whole(shape, mesh):
  return jax.ShapeDtypeStruct(
      shape.shape, shape.dtype,
      sharding=NamedSharding(mesh, jax.sharding.PartitionSpec()))
