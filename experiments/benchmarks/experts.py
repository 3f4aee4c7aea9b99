"""Times implementations of the routed experts.

  python -m experiments.benchmarks.experts [--json]

docs/log/core.md and docs/log/rollout.md have the tables, from which
`r1jax.ops.experts.choose` takes the fastest implementation for each backend.
The form `capacity` has no gradients, and with many tokens it is `blocks`.
"""

from __future__ import annotations

import json
import statistics
import time

import jax
import jax.numpy as jnp
from absl import flags

from r1jax.ops import experts
from r1jax.report import tables

from .. import start
from .output import JSON

REPS = flags.DEFINE_integer("reps", 5, "Timed runs of each implementation.")
FORMS = flags.DEFINE_list(
    "forms", ["dense", "ragged", "blocks", "capacity"],
    "Implementations of `r1jax.ops.experts` to time.")

# tokens, experts, width, expert width, experts per token: of decoding, then of
# training
SIZES = ((1, 64, 1024, 352, 6), (4, 64, 1024, 352, 6), (16, 64, 1024, 352, 6),
         (64, 64, 1024, 352, 6), (32, 8, 256, 256, 2), (256, 8, 128, 80, 2),
         (256, 8, 128, 256, 2), (2048, 8, 128, 256, 2), (256, 64, 128, 64, 6),
         (2048, 64, 128, 64, 6), (4608, 8, 96, 64, 2))


def seconds(function, *args) -> float:
  """Median seconds of a compiled call."""
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(REPS.value):
    began = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - began)
  return statistics.median(times)


def measure(form: str, x: int, e: int, d: int, j: int, a: int) -> dict:
  """Milliseconds of forward, and of forward + backward if there is one."""
  keys = jax.random.split(jax.random.key(0), 6)
  normal = jax.random.normal
  x_XD = normal(keys[0], (x, d))
  chosen_XA = jax.lax.top_k(normal(keys[1], (x, e)), a)[1]
  gates_XA = jax.random.uniform(keys[2], (x, a))
  weights = (normal(keys[3], (e, d, j)), normal(keys[4], (e, d, j)),
             normal(keys[5], (e, j, d)))

  # The choice is an argument: of a constant, sorting would be compiled away.
  def total(x_XD, gates_XA, weights, chosen_XA):
    return jnp.sum(experts.routed(
        form, x_XD, chosen_XA, gates_XA, *weights,
        interpret=jax.default_backend() != "tpu"))

  args = (x_XD, gates_XA, weights, chosen_XA)
  gradient = jax.grad(total, argnums=(0, 1, 2))
  return {"form": form, "tokens": x, "experts": e, "width": d,
          "expert_width": j, "activated": a,
          "forward_ms": 1e3 * seconds(jax.jit(total), *args),
          "both_ms": None if form == "capacity" else (
              1e3 * seconds(jax.jit(gradient), *args))}


def main() -> None:
  rows = [measure(form, *size) for size in SIZES for form in FORMS.value]
  if JSON.value:
    print("\n".join(map(json.dumps, rows)))
    return
  cells = [[f"{r['tokens']}, {r['experts']}, {r['width']}, {r['expert_width']},"
            f" {r['activated']}", r["form"], f"{r['forward_ms']:.1f}",
            "" if r["both_ms"] is None else f"{r['both_ms']:.1f}"]
           for r in rows]
  header = ["X, E, D, J, A", "form", "forward ms", "forward + backward ms"]
  print(f"{jax.default_backend()}, jax {jax.__version__}")
  print(tables.render(header, cells))


if __name__ == "__main__":
  start.run(main)
