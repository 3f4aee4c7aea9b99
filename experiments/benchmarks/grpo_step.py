"""Times one GRPO step: rollout and update in tokens per second.

  python -m experiments.benchmarks.grpo_step --preset=peer-small --json

Sampler, packing and update are those of training (`r1jax.stages.grpo`); rewards
are made up, weights are random, and no completion has an end-of-sequence id.

  rollout_tok_s  sampled tokens / seconds of `Engine.generate`, prefill included
  update_tok_s   prompt and sampled tokens / seconds of packing, forward,
                 backward and optimizer
  step_s         one whole step: rollout, rewards, advantages, update
  compile_s      how much longer the first step took than the median step; the
                 compilation cache is off
  *_fraction     model FLOPs per second (`r1jax.accounting.flops`) / those of a
                 float32 matrix product, measured before and after in the same
                 process

Neither padding nor rows that have ended count as tokens. Of `peer-long` only
the rollout is measured: it shows the cost of a long tail of completions, in
time and in memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from r1jax.accounting import flops
from r1jax.core import keys
from r1jax.core.types import Rollout
from r1jax.data.streams import minibatches
from r1jax.losses.policy import PolicyConfig
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.report import tables
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding.mesh import mesh_or_none
from r1jax.stages import grpo, weights
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.learner import Learner
from r1jax.training import metrics as metrics_lib
from r1jax.training.advantages import Advantages
from r1jax.training.optimizer import OptimizerConfig

from .. import start
from ..computing import COMPUTE, MESH
from .output import JSON

_MATMUL = 2048  # side of the square matrices that measure the machine's FLOPs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
  """The sizes of one step.

  Attributes:
    model: preset of the model.
    questions, samples: prompts, and completions of each.
    prompt, new: tokens of a prompt, and of the longest completion.
    mean: completion lengths are min(new, 1 + x), where x is drawn from an
      exponential distribution of this mean; 0 makes all of them `new` long.
    micro_rows: packed rows of a micro-batch.
    update: whether the step includes the update, or the rollout alone.
  """

  model: str
  questions: int
  samples: int
  prompt: int = 64
  new: int = 128
  mean: float = 0.0
  micro_rows: int = 32
  update: bool = True

  def lengths(self) -> np.ndarray:
    """Completion lengths [Q, G], the same in every repetition."""
    shape = self.questions, self.samples
    if not self.mean:
      return np.full(shape, self.new, np.int32)
    drawn = 1 + np.random.default_rng(0).exponential(self.mean, shape)
    return np.minimum(self.new, drawn).astype(np.int32)


WORKLOADS = {
    "peer-small": Workload(model="peer-small", questions=32, samples=8),
    "peer-ragged": Workload(model="peer-small", questions=32, samples=8,
                            mean=32.0),
    "peer-long": Workload(model="peer-small", questions=16, samples=8,
                          new=2048, mean=256.0, update=False),
    "peer-moe": Workload(model="peer-moe", questions=32, samples=1),
}

PRESET = flags.DEFINE_enum(
    "preset", "peer-small", list(WORKLOADS),
    "Workload: model, questions, samples and lengths of a step.")
REPS = flags.DEFINE_integer(
    "reps", 3, "Steps measured after a warm-up.", lower_bound=1)
MAX_ROWS = flags.DEFINE_integer(
    "max_rows", 0, "Most samples decoded at once; 0 for all.", lower_bound=0)
MICRO_ROWS = flags.DEFINE_integer(
    "micro_rows", None, "Packed rows of a micro-batch; default: the"
    " workload's.")


class Bench:
  """The parts of a training run that a step uses."""

  def __init__(self, work: Workload, compute: Compute,
               mesh: jax.sharding.Mesh | None, max_rows: int):
    self.work, self.lengths = work, work.lengths()
    first = weights.load(f"random:{work.model}", compute, jax.random.key(0))
    # The config needs 2 samples or more; advantages are computed here, without
    # it.
    self.cfg = GrpoConfig(
        questions=work.questions, samples=max(2, work.samples),
        max_new_tokens=(work.new,), row_length=work.prompt + work.new,
        micro_rows=work.micro_rows, policy=PolicyConfig(kl_beta=0.0),
        optimizer=OptimizerConfig(lr=1e-4, b2=0.95))
    self.engine = Engine(first.model, SamplingConfig(
        temperature=self.cfg.temperature, max_new_tokens=work.new),
        frozenset(), mesh, max_rows=max_rows)
    self.learner = Learner(self.cfg, weights.Handover(first), mesh)
    self.prompts = np.random.default_rng(1).integers(
        0, first.model.cfg.vocab_size, (work.questions, work.prompt), np.int32)

  def step(self, index: int) -> dict[str, float]:
    """Runs one step; seconds by phase, and CPU seconds as `<phase>_cpu`."""
    clock, cpu = grpo.Clock(), [time.process_time()]
    with self.learner.sampling() as policy:
      rollout = self.engine.generate(
          policy, self.learner.state.router_bias_LE, list(self.prompts),
          range(self.work.questions), self.work.samples,
          keys.fold(jax.random.key(0), index), limits_QG=self.lengths)
    clock.lap("rollout")
    cpu.append(time.process_time())
    if self.work.update:
      self._update(rollout, clock)
    cpu.append(time.process_time())
    return clock.laps | {
        "step": sum(clock.laps.values()), "rollout_cpu": cpu[1] - cpu[0],
        "update_cpu": cpu[2] - cpu[1]}

  def _update(self, rollout: Rollout, clock: grpo.Clock) -> None:
    """Computes rewards and one update, and times them with the clock."""
    advantages = made_up(rollout.tokens_QGT)
    clock.lap("rewards")
    packed = minibatches.pack(
        rollout, [np.arange(self.lengths.size)], self.cfg.row_length,
        self.cfg.micro_rows)
    placed = self.learner.place(packed)
    (micros,) = self.learner.ready(
        packed, placed, self.learner.fixed_logprobs(placed),
        advantages.advantages_QG, advantages.keep_QG)
    metrics_lib.floats(self.learner.update(micros))
    clock.lap("update")


def made_up(tokens_QGT: np.ndarray) -> Advantages:
  """Advantages of made-up rewards: the share of even ids, batch-normalised."""
  rewards_QG = (tokens_QGT % 2 == 0).mean(-1)
  advantages_QG = ((rewards_QG - rewards_QG.mean())
                   / (rewards_QG.std() + 1e-6)).astype(np.float32)
  return Advantages(advantages_QG, np.ones(rewards_QG.shape, bool),
                    np.zeros(len(rewards_QG), bool), {})


def matmul_rate() -> float:
  """float32 FLOPs per second of a large matrix product, the best of five."""
  a = jnp.ones((_MATMUL, _MATMUL), jnp.float32)
  product = jax.jit(lambda a: jnp.dot(a, a, precision="float32"))
  product(a).block_until_ready()
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    product(a).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * _MATMUL**3 / min(seconds)


def operations(cfg: ModelConfig, work: Workload) -> tuple[float, float]:
  """FLOPs of the model in the rollout and in the update of one step."""
  lengths = work.lengths().reshape(-1).tolist()
  prefill = work.prompt * flops.forward(cfg, (work.prompt + 1) / 2)
  rollout = work.questions * prefill + sum(
      flops.sampling(cfg, work.prompt, n) for n in lengths)
  update = sum((work.prompt + n) * flops.training(cfg, work.prompt + n)
               for n in lengths)
  return rollout, update


def peak_memory() -> dict[str, float]:
  """Peak resident memory, and the device's peak if it reports one, in GB."""
  unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
  rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  peaks = {"peak_rss_gb": rss / 1e9}
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    peaks["peak_device_gb"] = stats["peak_bytes_in_use"] / 1e9
  return peaks


def measure(work: Workload, reps: int, compute: Compute | None = None,
            mesh: jax.sharding.Mesh | None = None, max_rows: int = 0
            ) -> dict[str, Any]:
  """Times `reps` steps after a warm-up; the module describes the names."""
  bench = Bench(work, compute or Compute(), mesh, max_rows)
  rates = [matmul_rate()]
  with bench.learner.on_mesh():
    steps = [bench.step(i) for i in range(reps + 1)]
  rates.append(matmul_rate())
  median = {k: statistics.median(s[k] for s in steps[1:]) for k in steps[0]}
  sampled = int(bench.lengths.sum())
  trained = sampled + bench.lengths.size * work.prompt
  rollout_ops, update_ops = operations(presets.get(work.model), work)
  rate = statistics.mean(rates) * jax.device_count()
  found = {
      "rollout_tok_s": sampled / median["rollout"],
      "rollout_s": median["rollout"],
      "compile_s": steps[0]["step"] - median["step"],
      **peak_memory(),
      "rollout_fraction": rollout_ops / median["rollout"] / rate,
      "matmul_gflops_before": rates[0] / 1e9,
      "matmul_gflops_after": rates[1] / 1e9,
      "rollout_tok_cpu_s": sampled / median["rollout_cpu"],
      "rollout_tokens": sampled, "reps": reps,
      "steps": [{k: round(v, 3) for k, v in s.items()} for s in steps[1:]],
  }
  if not work.update:
    return found
  return found | {
      "update_tok_s": trained / median["update"],
      "step_s": median["step"], "update_s": median["update"],
      "update_fraction": update_ops / median["update"] / rate,
      "step_fraction": (rollout_ops + update_ops) / median["step"] / rate,
      "update_tok_cpu_s": trained / median["update_cpu"],
      "update_tokens": trained, "micro_rows": work.micro_rows,
  }


def main() -> None:
  work = WORKLOADS[PRESET.value]
  if MICRO_ROWS.value is not None:
    work = dataclasses.replace(work, micro_rows=MICRO_ROWS.value)
  jax.config.update("jax_enable_compilation_cache", False)
  compute = COMPUTE.value()
  results = {
      "preset": PRESET.value, "jax": jax.__version__,
      "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
      "cpus": os.cpu_count(),
      **measure(work, REPS.value, compute, mesh_or_none(MESH.value()),
               MAX_ROWS.value),
      "load_average": os.getloadavg()[0]}
  if JSON.value:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v
                      for k, v in results.items()}), flush=True)
    return
  rows = [[k, f"{v:,.4g}" if isinstance(v, float) else str(v)]
          for k, v in results.items() if k != "steps"]
  print(tables.render(["measure", "value"], rows), flush=True)


if __name__ == "__main__":
  start.run(main)
