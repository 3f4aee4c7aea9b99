"""What a run holds, by kind and phase: counted, and alive in a real one."""

import dataclasses
import weakref

import jax
import pytest

from r1jax.ahead import aot, resident
from r1jax.ahead.aot_config import AheadConfig
from r1jax.losses.distill import DistillConfig
from r1jax.losses.policy import PolicyConfig
from r1jax.models import scalar_head
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.rollout import engine as engine_lib
from r1jax.rollout import prompts as prompts_lib
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import grpo, weights
from r1jax.stages import learner as learner_lib
from r1jax.stages.weights import Handover
from r1jax.training.optimizer import OptimizerConfig
from tests.stages import cases

# Every sample has a row to itself: prompts are longer than half a row.
ROW, NEW, SHORTEST = 46, 12, 24
MESH = dict(data=1, fsdp=2, expert=2, sequence=2)
# Bytes that no kind has: random keys, prompts, limits, and scalars of metrics.
SMALL = 4096


class Watched:
  """A compiled function that looks around before it runs."""

  def __init__(self, run, look, keep=None):
    self._run, self._look, self._keep = run, look, keep

  def __call__(self, *args, **options):
    self._look(args)
    result = self._run(*args, **options)
    if self._keep:
      self._keep(result)
    return result

  def __getattr__(self, name):
    return getattr(self._run, name)


class Watch:
  """Live bytes by phase and kind, on one device and in host memory.

  Attributes:
    found: phase -> (device, host) of every call.
    rest: shapes that belong to no kind, of all calls.
  """

  def __init__(self):
    self.before = jax.live_arrays()  # kept, so that no address comes again
    self.found, self.rest = {}, set()
    self.batches, self.references, self.rewards = [], [], []
    self.copies = []

  def learner(self, learner):
    """Watches the programs of a learner."""
    self.run, look = learner, self.look
    step = learner._update
    learner._update = step._replace(
        accumulate=Watched(step.accumulate, lambda a: look(
            "accumulate", {"gradient sums": a[3],
                           learner_kind(learner, a[0]): a[0]})),
        apply=Watched(step.apply, lambda a: look(
            "apply", {"gradient sums": a[1]})))
    learner._logprobs = Watched(
        learner._logprobs, self.scoring, lambda result: self.batch(result[0]))
    if learner._taught:
      learner._taught = Watched(
          learner._taught, lambda a: look("taught", {}),
          lambda result: self.batch(result[0]))
    moves = learner._decoding._moves
    learner._decoding._moves = Watched(
        moves, lambda a: look("reshard", {learner_kind(learner, a[0]): a[0]}))

  def engine(self, engine):
    """Watches the programs of an engine."""
    run = engine.programs
    run.prefill = Watched(run.prefill, self.prefill)
    run.insert = Watched(
        run.insert, lambda a: self.look("insert", {
            "decoding copy": [ref() for ref in self.copies],
            "cache": a[:2]}))
    run.decode = Watched(
        run.decode, lambda a: self.look(
            "decode", {"decoding copy": a[0], "cache": a[2]}))

  def prefill(self, args):
    """Before prompts are computed."""
    self.copies = [weakref.ref(x) for x in jax.tree.leaves(args[0])]
    self.look("prefill", {"decoding copy": args[0]})

  def reward(self, asked):
    """Watches a reward model."""
    self.rewards.append(asked)
    scoring = asked._scoring
    scoring._score = Watched(
        scoring._score, lambda a: self.look("score", {"batch": a[2]}))

  def batch(self, tree):
    """Remembers arrays of the step's batch."""
    self.batches += [weakref.ref(x) for x in jax.tree.leaves(tree)]

  def scoring(self, args):
    """Before log-probabilities, of the reference or of the policy."""
    if args[0] is not self.run.policy:
      self.references += [weakref.ref(x) for x in jax.tree.leaves(args[:2])]
    self.look("logprobs", {})

  def look(self, phase, kinds):
    """Adds what is alive now; `kinds` are arguments, attributes go before."""
    state = self.run.state
    known = {}
    for kind, tree in (kinds | {
        "masters": state.params, "moments": state.opt_state,
        "other": (state.router_bias_LE, state.step)}
        | ({"compute copy": self.run._compute} if self.run._compute else {})
        ).items():
      known |= {id(x): kind for x in leaves(tree)}
    if self.run.reference:
      known |= {id(x): "reference" for x in leaves(self.run.reference)}
    if self.run.teacher:
      known |= {id(x): "teacher" for x in leaves(self.run.teacher[1:])}
    for asked in self.rewards:
      known |= {id(x): "reward models" for x in leaves(
          (asked._params, asked._bias_LE))}
    for kind, refs in (("batch", self.batches), ("reference", self.references)):
      known |= {id(ref()): kind for ref in refs if ref() is not None}
    old, seen = {id(x) for x in self.before}, set()
    device, host = {}, {}
    # An array's parts are arrays as well, with the same buffers.
    alive = [x for x in jax.live_arrays() if id(x) not in old]
    for x in sorted(alive, key=lambda x: id(x) not in known):
      for shard in x.addressable_shards:
        pointer = shard.data.unsafe_buffer_pointer()
        if (shard.device != jax.devices()[0] or pointer in seen
            or not shard.data.nbytes):
          continue
        seen.add(pointer)
        kind, size = known.get(id(x), "rest"), shard.data.nbytes
        where = device if x.sharding.memory_kind == "device" else host
        where[kind] = where.get(kind, 0) + size
        if kind == "rest":
          self.rest.add((x.shape, str(x.dtype), size))
    assert device.pop("rest", 0) < SMALL, (phase, self.rest)
    self.found.setdefault(phase, []).append((device, host))


def leaves(tree):
  """The arrays of a tree, random keys as the integers that they are."""
  return [jax.random.key_data(x) if jax.dtypes.issubdtype(
      x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)]


def learner_kind(learner, params):
  """The kind of parameters that compute."""
  lent = learner.model.casts_nothing(params) and (
      learner.model.compute.dtype == "float32")
  return "masters" if lent else "compute copy"


def teacher(compute, mesh):
  """Wider than the student."""
  model = build(dataclasses.replace(
      cases.DENSE, d_model=2 * cases.DENSE.d_model), compute)
  init = jax.jit(model.init, out_shardings=weights.placed(model, mesh))
  return weights.computing(weights.Weights(
      model, init(jax.random.key(5)), model.init_router_bias()), mesh)


def watched(tmp_path, monkeypatch, cfg, compute, mesh, model):
  """Two steps of a run, looked at."""
  watch = Watch()

  class Learner(learner_lib.Learner):
    def __init__(self, *args):
      super().__init__(*args)
      watch.learner(self)

    def place(self, packed):
      found = super().place(packed)
      watch.batch(found)
      return found

    def ready(self, *args):
      found = super().ready(*args)
      watch.batch(found)
      return found

  class Engine(engine_lib.Engine):
    def __init__(self, *args, **options):
      super().__init__(*args, **options)
      watch.engine(self)

  monkeypatch.setattr(learner_lib, "Learner", Learner)
  monkeypatch.setattr(grpo, "Engine", Engine)
  monkeypatch.setattr(prompts_lib, "PROMPT_BUCKET", ROW - NEW)
  initial = Handover(cases.policy(model)._replace(model=build(model, compute)))
  made, beside = cases.judge(), {}
  if cfg.distill.on:
    made = cases.rewarding(compute, mesh, offload="rewards" in cfg.offload)
    for scorer in made.models.values():
      watch.reward(scorer.model)
    beside = {"teacher": teacher(compute, mesh)}
  prompts = cases.general(
      p for p in cases.prompts() if len(made.tokens(p)) >= SHORTEST)
  grpo.run(cfg, initial, made, prompts, tmp_path, mesh=mesh, **beside)
  return watch


BFLOAT16 = Compute(dtype="bfloat16", unroll=1)
AWAY = dict(offload=("optimizer", "reference"))
OFF = dict(policy=PolicyConfig(kl_beta=0.0))
HALVES = dict(minibatches=2, epochs=2, reference_every=3, optimizer=(
    OptimizerConfig(lr=0.01, moments="bfloat16")))


TAUGHT = dict(distill=DistillConfig(factor=1.0, divergence=0.5))


# The mixture has a module that is not trained.
@pytest.mark.parametrize("model,compute,mesh,changes", [
    pytest.param(cases.DENSE, Compute(unroll=1), None, {}, id="float32-one"),
    pytest.param(cases.DENSE, BFLOAT16, None, TAUGHT | HALVES | dict(
        offload=(*AWAY["offload"], "rewards")), id="bfloat16-one-offload"),
    pytest.param(cases.MIXTURE, BFLOAT16, MESH, AWAY | HALVES,
                 id="bfloat16-mesh-offload"),
    pytest.param(cases.MIXTURE, Compute(unroll=1), MESH, OFF | HALVES | TAUGHT,
                 id="float32-mesh-off")])
def test_a_run_holds_what_is_counted(tmp_path, monkeypatch, model, compute,
                                     mesh, changes):
  cfg = cases.config(**dict(
      steps=2, row_length=ROW, micro_rows=4, max_new_tokens=(NEW,),
      save_every=9) | changes)
  devices = make_mesh(MeshConfig(**mesh)) if mesh else None
  watch = watched(tmp_path, monkeypatch, cfg, compute, devices, model)
  same = {field.name: getattr(cfg, field.name)
          for field in dataclasses.fields(AheadConfig)
          if hasattr(cfg, field.name) and field.name != "samples"}
  beside = resident.NOBODY
  if cfg.distill.on:
    beside = resident.Beside(teacher(compute, devices).model, {
        name: scalar_head.over(config, compute)
        for name, config in cases.REWARDING.items()})
  programs = aot.programs(build(model, compute), AheadConfig(
      rows=cfg.questions * cfg.samples, samples=cfg.samples, length=ROW,
      prompt=ROW - NEW, model_rows=cases.MODEL_ROWS,
      model_length=cases.MODEL_LENGTH, **same),
      devices or make_mesh(MeshConfig(), jax.devices()[:1]), beside)
  assert set(watch.found) == set(programs)
  for phase, calls in watch.found.items():
    # The last micro-batch of a step finds the most, of both models the larger.
    if phase in ("logprobs", "taught", "score"):
      by = "reward models" if phase == "score" else "batch"
      most = max(device[by] for device, _ in calls)
      calls = [call for call in calls if call[0][by] == most]
      assert phase == "score" or len(calls) == 2
    held = programs[phase].held
    for device, host in calls:
      assert device == held.device, phase
      assert host == held.host, phase
