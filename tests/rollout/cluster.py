"""The engine in a process of a cluster, for test_processes.py.

  python -m tests.rollout.cluster

on four devices in all. Prints the samples of this process's questions, through
few rows, where every device has its own rows, where all share each of them,
where the model drafts, and where it does for shared prompts; last, with a
deadline in seconds, which passes by the clock of process 0 alone.
"""

import itertools
import json

import jax
import numpy as np

from r1jax.models import presets
from r1jax.models.model import build
from r1jax.rollout import engine as engine_lib
from r1jax.rollout import prompts as prompts_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.rollout.slots import Deadline
from r1jax.sharding import distributed, processes
from r1jax.sharding.mesh import MeshConfig, make_mesh

MESHES = {"data": dict(data=4), "tensor": dict(data=1, tensor=4),
          "drafts": dict(data=2, expert=2), "shared": dict(data=2, tensor=2)}
PROMPTS = [np.arange(5, 5 + n) for n in (3, 7, 17, 4)]
SAMPLES = 3


def engine(mesh=None, **options):
  """(engine, parameters, router bias) of a small mixture."""
  model = build(presets.get("tiny"))
  params = jax.jit(model.init)(jax.random.key(0))
  return Engine(model, SamplingConfig(max_new_tokens=9),
                frozenset({2, 3, 40}), mesh, **options), params, (
                    model.init_router_bias())


def drawn(made, prompts, ids, params, bias):
  """{address: [tokens, rounded log-probabilities] of every sample}."""
  rollout = made.generate(params, bias, prompts, ids, SAMPLES,
                          jax.random.key(5))
  return {str(i): [[rollout.completion(q, g).tolist(),
                    rollout.logprobs_QGT[q, g, :n].tolist()]
                   for g, n in enumerate(rollout.lengths_QG[q])]
          for q, i in enumerate(ids)}


if __name__ == "__main__":
  distributed.initialize()
  copied = prompts_lib.SHARED
  for name, sizes in MESHES.items():
    mesh = make_mesh(MeshConfig(**sizes))
    prompts_lib.SHARED = 1 if name == "shared" else copied
    with jax.set_mesh(mesh):
      made, *rest = engine(
          mesh, max_rows=4, speculate=2 * (name in ("drafts", "shared")))
      ids = processes.part(range(len(PROMPTS)))
      found = drawn(made, [PROMPTS[i] for i in ids], ids, *rest)
    print("RESULT", json.dumps([name, found]), flush=True)
  engine_lib.WATCH, prompts_lib.SHARED, number = 3, copied, jax.process_index()
  mesh, ticks = make_mesh(MeshConfig(data=4)), itertools.count(0, 1 - number)
  with jax.set_mesh(mesh):
    made, *rest = engine(mesh, max_rows=4, deadline=Deadline(seconds=2),
                         clock=lambda: float(next(ticks)))
    found = drawn(made, [PROMPTS[i] for i in ids], ids, *rest)
  print("RESULT", json.dumps([f"late {number}", found]), flush=True)
