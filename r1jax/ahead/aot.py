"""Lowers the programs of a GRPO step from shapes alone; nothing is allocated.

They are the functions that training calls, for a mesh of devices that need not
exist on this machine. Each comes with its FLOPs as counted from the config.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from r1jax.accounting import flops, memory
from r1jax.ahead import resident
from r1jax.ahead.aot_config import AheadConfig
from r1jax.ahead.resident import NOBODY, Arrays, Beside, Held
from r1jax.core.config import check
from r1jax.models.model import Model
from r1jax.ops import (
    cached,
    expert_parallel,
    experts,
    ragged_exchange,
)
from r1jax.rollout.engine import Engine
from r1jax.rollout.programs import CHUNK, Fill, Rows
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import rules
from r1jax.training import logprobs, objectives, reshard, step
from r1jax.training.optimizer import make_optimizer


@dataclasses.dataclass(frozen=True)
class Program:
  """A program to compile.

  Attributes:
    name: `reshard`, `prefill`, `insert`, `decode`, `halve` (of a layer's
      cache), `logprobs`, `taught` (the teacher's log-probabilities), `score`
      (of the largest reward model), `accumulate` or `apply`.
    lower: () -> `jax.stages.Lowered`.
    arguments: its arguments by kind (`resident.KINDS`), trees of
      `jax.ShapeDtypeStruct` with shardings.
    held: all arrays alive when it starts, its arguments included.
    flops: FLOPs of matrix products of one step on one device, counted from the
      config without any padding.
    steps: steps per run: tokens of a decode loop, else 1.
    trips: trip counts of loops that are known only at run time, by scope.
    kept: bytes on one device that the forward pass keeps for the backward pass.
    filled: share of the cache's slots that have tokens in the step counted.
  """

  name: str
  lower: Callable[[], jax.stages.Lowered]
  arguments: Mapping[str, Any]
  held: Held
  flops: float = 0.0
  steps: int = 1
  trips: Mapping[str, float] = dataclasses.field(default_factory=dict)
  kept: int = 0
  filled: float = 1.0

  @property
  def resident(self) -> dict[str, int]:
    """Bytes on one device by kind that are alive and no arguments of it."""
    given = {kind: memory.shard_bytes(tree)
             for kind, tree in self.arguments.items()}
    rest = {kind: size - given.get(kind, 0)
            for kind, size in self.held.device.items()}
    return {kind: size for kind, size in rest.items() if size > 0}


def programs(model: Model, cfg: AheadConfig, mesh: Mesh,
             beside: Beside = NOBODY) -> dict[str, Program]:
  """All programs of a GRPO step by name, in the order of their first run.

  `halve` exists only where decoding halves its rows, `logprobs` only where the
  update reads those of a reference or old policy, `taught` with a teacher whose
  log-probabilities are read, `score` with reward models.

  Args:
    model: the policy.
    cfg: the sizes.
    mesh: the mesh of devices.
    beside: the teacher and the reward models.

  Raises:
    ValueError: rows or tokens do not divide over the mesh, a model's context
      is shorter than its rows, or the optimizer does not suit the parameters.
  """
  _check(model, cfg, mesh, beside)
  arrays = resident.arrays(model, cfg, mesh, beside)
  engine = Engine(model, SamplingConfig(
      max_new_tokens=cfg.length - cfg.prompt), frozenset({0}), mesh,
      speculate=cfg.speculate)
  slots = _slots(model, cfg, mesh, engine)
  rows, prompts = _rows(cfg, mesh, engine, arrays, slots)
  held = resident.phases(cfg, arrays, rows, prompts)
  made = [_reshard(model, mesh, arrays, held), *_sampling(
      model, cfg, mesh, engine, arrays, rows, prompts, slots, held)]
  if cfg.reads_reference or not cfg.on_policy:
    made.append(_logprobs(model, cfg, mesh, arrays, held))
  if cfg.distill.factor:
    made.append(_taught(beside.teacher, cfg, mesh, arrays, held))
  if beside.rewards:
    made.append(_score(beside.rewards, cfg, mesh, arrays, held))
  made += _update(model, cfg, mesh, arrays, held, beside.teacher)
  return {program.name: program for program in made}


def _check(model, cfg, mesh, beside):
  model.cfg.check_length(cfg.length, "length")
  check(cfg.distill.on == (beside.teacher is not None), "distill.factor or"
        " distill.divergence must be positive with a teacher, and both 0"
        " without one")
  if beside.teacher is not None:
    beside.teacher.cfg.check_length(cfg.length, "length (teacher)")
  for name, one in beside.rewards.items():
    one.cfg.check_length(cfg.model_length, f"model_length ({name})")
  step.check_rows(cfg.micro, cfg.length, mesh)
  shards = rules.batch_shards(mesh, "decode")
  check(cfg.rows // cfg.samples % shards == 0, f"rows={cfg.rows}: their"
        f" {cfg.rows // cfg.samples} prompts do not divide over the {shards}"
        " devices that decoding splits rows over")


def _update(model, cfg, mesh, arrays: Arrays, held, teacher
            ) -> tuple[Program, Program]:
  objective = objectives.grpo_objective(
      model, cfg.policy, distill=cfg.distill, teacher=teacher)
  state = arrays.state
  update = step.make_update(
      objective, make_optimizer(cfg.optimizer),
      shardings=jax.tree.map(lambda x: x.sharding, state),
      held=(*(name for name in resident.HELD if name in state.params),
            "teacher"))
  taught = objectives.teacher_part(*_read(arrays.teacher)) if (
      cfg.distill.divergence) else {}
  weights = {name: resident.whole(
      jax.ShapeDtypeStruct((), jnp.float32), mesh) for name in update.names}
  tokens = cfg.micro * cfg.length
  once = _forward(model, cfg) * tokens
  work = 3 * once + tokens * _again(model, cfg, mesh)
  bias_LE = state.router_bias_LE
  read = {arrays.policy: _main(arrays.compute), "gradient sums": arrays.sums,
          "batch": arrays.micro, "other": (bias_LE, weights)}
  if taught:
    read["teacher"] = taught
    work += _forward(teacher, cfg) * tokens
  accumulate = Program(
      "accumulate", _under(mesh, update.accumulate, arrays.compute | taught,
                           bias_LE, weights, arrays.sums, arrays.micro),
      read, held["accumulate"], flops=work / mesh.size,
      trips=_rounds(model, cfg, mesh),
      kept=kept(model, objective, arrays, mesh, taught))
  apply = Program(
      "apply", _under(mesh, update.apply, state, arrays.sums),
      {"masters": state.params, "moments": state.opt_state,
       "gradient sums": arrays.sums, "other": (bias_LE, state.step)},
      held["apply"])
  return accumulate, apply


def _forward(model, cfg) -> float:
  """FLOPs of a token's forward pass, the mean over a causal row."""
  return flops.forward(model.cfg, (cfg.length + 1) / 2)


def _again(model, cfg, mesh) -> float:
  """FLOPs per token that the backward pass recomputes.

  It always recomputes the head and attention scores; on TPU, kernels form the
  scores once for the gradient of queries and again, with the products of the
  values, for that of keys and values. With full remat it recomputes the layers
  too, except the last product of a feed-forward, whose result only the next
  layer needs; routed experts are recomputed completely, because their gates'
  gradients need the result.
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


def _rounds(model, cfg, mesh, size: tuple[int, int] | None = None,
            layout: str = "train") -> dict[str, float]:
  """Rounds of token exchange and experts under a balanced router, by scope.

  `size` is (rows, tokens per row); None: a micro-batch.
  """
  ways = math.prod(mesh.shape[a] for name in ("act_batch", "act_length")
                   for a in rules.LAYOUTS[layout][name])
  rows, length = (cfg.micro, cfg.length) if size is None else size
  tokens, activated = rows * length // ways, model.cfg.n_activated
  if not activated:
    return {}
  pairs = tokens * activated // ragged_exchange.chunks(tokens, activated)
  rounds = {experts.ROUNDS: 1.0} if layout == "decode" else {}
  return rounds | {
      ragged_exchange.SCOPE: pairs / ragged_exchange.capacity(pairs)}


def kept(model: Model, objective: objectives.Objective, arrays: Arrays,
         mesh: Mesh, taught: Mapping[str, Any] = MappingProxyType({})) -> int:
  """Bytes on one device that a micro-batch keeps for its backward pass.

  They are the residuals that are not parameters, assumed to be split over rows
  and positions. `taught` are the teacher's parameters, if the objective reads
  them.
  """
  def transpose(params, bias_LE, micro):
    return jax.vjp(
        lambda p: objective.evaluate(
            p | taught, bias_LE, micro).terms["policy"][0], params)[1]

  with jax.set_mesh(mesh):
    saved = jax.eval_shape(
        transpose, arrays.compute, arrays.state.router_bias_LE, arrays.micro)
  shapes = {leaf.shape for leaf in jax.tree.leaves(arrays.compute)}
  total = sum(memory.shard_bytes(leaf) for leaf in jax.tree.leaves(saved)
              if leaf.shape not in shapes)
  return total // (rules.batch_shards(mesh) * mesh.shape["sequence"])


def _logprobs(model, cfg, mesh, arrays, held) -> Program:
  """Log-probabilities of the reference policy if there is one, else the old."""
  bias_LE, micro = arrays.state.router_bias_LE, arrays.placed
  params = _main(arrays.compute)
  run = logprobs.make_logprobs(model)
  policy = {"reference": (params, bias_LE)} if arrays.reference else {
      arrays.policy: params, "other": bias_LE}
  return Program(
      "logprobs", _under(mesh, run, params, bias_LE, micro),
      policy | {"batch": (micro.tokens_BT, micro.targets_BT, micro.segments_BT,
                          micro.positions_BT)},
      held["logprobs"],
      flops=_forward(model, cfg) * cfg.micro * cfg.length / mesh.size,
      trips=_rounds(model, cfg, mesh))


def _taught(teacher, cfg, mesh, arrays, held) -> Program:
  """Log-probabilities of the teacher."""
  read, micro = _read(arrays.teacher), arrays.placed
  return Program(
      "taught", _under(mesh, logprobs.make_logprobs(teacher), *read, micro),
      {"teacher": read, "batch": (
          micro.tokens_BT, micro.targets_BT, micro.segments_BT,
          micro.positions_BT)},
      held["taught"],
      flops=_forward(teacher, cfg) * cfg.micro * cfg.length / mesh.size,
      trips=_rounds(teacher, cfg, mesh))


def _score(rewards, cfg, mesh, arrays, held) -> Program:
  """Scores of the largest reward model."""
  name = max(arrays.rewards, key=lambda n: memory.shard_bytes(
      arrays.rewards[n]))
  model, asked = rewards[name], arrays.asked
  rows, length = asked.tokens_BT.shape
  run = jax.jit(lambda params, bias_LE, batch: model.scores(
      params, bias_LE, batch)[0])
  head = 2 * model.cfg.d_model * model.cfg.vocab_size
  return Program(
      "score", _under(mesh, run, *arrays.rewards[name], asked),
      {"reward models": arrays.rewards[name], "batch": (
          asked.tokens_BT, asked.segments_BT, asked.positions_BT)},
      held["score"], flops=(flops.forward(
          model.cfg, (length + 1) / 2) - head) * rows * length / mesh.size,
      trips=_rounds(model, cfg, mesh, (rows, length)))


def _read(teacher):
  """What a forward pass reads of (parameters, router bias)."""
  return _main(teacher[0]), teacher[1]


def _reshard(model, mesh, arrays, held) -> Program:
  run = reshard.make_reshard(model, mesh, "decode")
  return Program("reshard", _under(mesh, run, arrays.compute),
                 {arrays.policy: arrays.compute}, held["reshard"])


def _sampling(model, cfg, mesh, engine, arrays, rows, prompts, slots, held
              ) -> Iterator[Program]:
  """Prefill, insertion of samples into rows, decoding, halving of the batch."""
  params, bias_LE = arrays.decoding, arrays.state.router_bias_LE
  # Only what decoding reads; the rest is dropped from its arguments.
  given = {"decoding copy": params if cfg.speculate else _main(params),
           "other": bias_LE}
  head = 2 * model.cfg.d_model * model.cfg.vocab_size
  asked, run = _asked(cfg, mesh, engine), engine.programs
  count, length = asked[0].shape
  parts = run.parts(count, length)
  size, mla = -(-length // parts), model.cfg.attention == "mla"
  yield Program(
      "prefill", _under(mesh, run.prefill, params, bias_LE, *asked),
      given | {"batch": asked, "decoding copy": params}, held["prefill"],
      flops=count * length * (flops.forward(
          model.cfg, (length + 1) / 2,
          absorbed=parts > 1 and mla) - head
          + (cfg.speculate > 0) * flops.latents(model.cfg)) / mesh.size,
      # A part reads the cache's blocks up to its end: half of them on average.
      trips=_rounds(model, cfg, mesh, (count, size), "decode") | {
          cached.BLOCKS: (length + size) / 2 / (
              _reading(model, mesh, size, length).slots or 1)})
  place = rules.batch_sharding(mesh, "decode")
  key = resident.whole(jax.eval_shape(lambda: jax.random.key(0)), mesh)
  fill = Fill(*(
      jax.ShapeDtypeStruct((cfg.rows,), dtype, sharding=place) for dtype in (
          jnp.bool_, *4 * (jnp.int32,), *2 * (jnp.uint32,))))
  yield Program(
      "insert", _under(mesh, run.insert, rows, prompts, key, fill),
      {"cache": (rows, prompts), "batch": (key, fill)}, held["insert"])
  scalar = resident.whole(jax.ShapeDtypeStruct((), jnp.int32), mesh)
  floors_S = jax.ShapeDtypeStruct((engine.lanes,), jnp.int32, sharding=place)
  control, steps = (scalar, scalar, floors_S), min(
      CHUNK, cfg.length - cfg.prompt)
  block = _reading(model, mesh, 1, slots).slots
  step = functools.partial(flops.drafted, depth=cfg.speculate) if (
      cfg.speculate) else flops.forward
  yield Program(
      "decode", _under(mesh, run.decode, params, bias_LE, rows, *control),
      given | {"cache": rows, "batch": control}, held["decode"],
      flops=cfg.rows * step(
          model.cfg, cfg.read if block else slots,
          absorbed=mla) / mesh.size,
      # The other loops are inside the loop over tokens.
      steps=steps, trips=_rounds(
          model, cfg, mesh, (cfg.rows, 1 + cfg.speculate), "decode") | {
          cached.BLOCKS: -(-cfg.read // (block or 1)),
          expert_parallel.TURNS: 1, "while": steps},
      filled=cfg.read / slots)
  if engine.halves(cfg.rows):
    kept_B = jax.ShapeDtypeStruct((cfg.rows // 2,), jnp.int32, sharding=place)
    yield Program(
        "halve", _under(mesh, run.move, rows.cache[0], kept_B, slots=slots),
        {"cache": (rows.cache[0], kept_B)}, held["halve"])


def _reading(model, mesh, tokens: int, slots: int) -> cached.Reading:
  return cached.reading(
      mesh.devices.flat[0].platform, tokens, slots,
      jnp.dtype(model.compute.dtype), model.cfg.attention == "mla")


def _slots(model, cfg, mesh, engine) -> int:
  """Slots of the cache.

  If a step reads all of them, those that it has in a rollout whose longest row
  has the tokens that are counted.
  """
  if _reading(model, mesh, 1, cfg.length).slots:
    return cfg.length
  return engine.slots(cfg.read, cfg.length)


def _asked(cfg, mesh, engine) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Shapes of the prompts that are prefilled together, and of their lengths."""
  count = engine.lanes * engine.prompts_at_once(
      cfg.rows // cfg.samples, cfg.samples, cfg.prompt)
  place = rules.batch_sharding(mesh, "decode")
  return (jax.ShapeDtypeStruct((count, cfg.prompt), jnp.int32, sharding=place),
          jax.ShapeDtypeStruct((count,), jnp.int32, sharding=place))


def _rows(cfg, mesh, engine, arrays, slots: int) -> tuple[Rows, Any]:
  """Shapes of the state of all rows, and of the prompts' cache."""
  run, key = engine.programs, jax.eval_shape(lambda: jax.random.key(0))

  def placed(axes, tree):
    return jax.tree.map(
        lambda names, x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, rules.fitted(
                names, x.shape, dict(mesh.shape), "decode"))),
        axes, tree, is_leaf=rules.is_axes)

  with jax.set_mesh(mesh):
    prompts, _ = jax.eval_shape(
        run.prefill, arrays.decoding, arrays.state.router_bias_LE,
        *_asked(cfg, mesh, engine))
    rows = jax.eval_shape(
        functools.partial(run.empty, rows=cfg.rows, slots=slots),
        prompts, key)
  axes = run.axes(rows)
  return placed(axes, rows), placed(axes.cache, prompts)


def _under(mesh, run, *args, **static) -> Callable[[], jax.stages.Lowered]:
  def lower():
    with jax.set_mesh(mesh):
      return run.lower(*args, **static)
  return lower


def _main(params):
  """The parameters without the MTP module."""
  return {name: part for name, part in params.items() if name != "mtp"}
