"""Times the implementations of attention over whole rows.

  python -m experiments.benchmarks.attention [--json]

docs/log/core.md has the table. `r1jax.ops.flash.choose` takes from it the row
length at which it changes from one implementation to the other.
"""

from __future__ import annotations

import json
import statistics
import time

import jax
import jax.numpy as jnp
from absl import flags

from r1jax.ops import flash
from r1jax.ops.attention import Segments
from r1jax.report import tables

from .. import start
from .output import JSON

REPS = flags.DEFINE_integer("reps", 5, "Timed runs of each implementation.")
FORMS = flags.DEFINE_list(
    "forms", ["naive", "blocks"],
    "Implementations to time, among " + ", ".join(flash.FORMS) + ".")
LENGTHS = flags.DEFINE_list(
    "lengths", ["256", "512", "1024", "2048", "4096"],
    "Row lengths to time, in tokens.")
SEGMENTS = flags.DEFINE_integer(
    "segments", 1, "Segments (packed sequences) of a row, of equal length.")
BLOCK = flags.DEFINE_integer(
    "block", flash.BLOCK, "Queries, and keys, of a block.")
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"],
    "Dtype of queries, keys and values.")

ROWS, HEADS, WIDTH = 2, 4, 64


def seconds(function, *args) -> float:
  """Median seconds of a compiled call."""
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(REPS.value):
    began = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - began)
  return statistics.median(times)


def measure(form: str, length: int) -> dict:
  """Milliseconds of forward and of forward + backward."""
  q, k, v, dout = (jax.random.normal(key, (ROWS, HEADS, length, WIDTH),
                                     DTYPE.value)
                   for key in jax.random.split(jax.random.key(0), 4))
  row_1T = (jnp.arange(length) * SEGMENTS.value // length + 1)[None]
  segments = Segments.whole(jnp.broadcast_to(row_1T, (ROWS, length)))

  def attend(q, k, v):
    return flash.attend(
        form, q, k, v, segments, WIDTH ** -0.5, block=BLOCK.value,
        packed=SEGMENTS.value > 1)

  def both(q, k, v, dout):
    out, pull = jax.vjp(attend, q, k, v)
    return out, pull(dout)

  return {"form": form, "rows": ROWS, "heads": HEADS, "width": WIDTH,
          "length": length, "segments": SEGMENTS.value, "block": BLOCK.value,
          "dtype": DTYPE.value,
          "forward_ms": 1e3 * seconds(jax.jit(attend), q, k, v),
          "both_ms": 1e3 * seconds(jax.jit(both), q, k, v, dout)}


def main() -> None:
  rows = [measure(form, int(length)) for length in LENGTHS.value
          for form in FORMS.value]
  if JSON.value:
    print("\n".join(map(json.dumps, rows)))
    return
  cells = [[str(r["length"]), r["form"], f"{r['forward_ms']:.1f}",
            f"{r['both_ms']:.1f}"] for r in rows]
  print(f"{jax.default_backend()}, jax {jax.__version__}, {ROWS} rows,"
        f" {HEADS} heads of {WIDTH}, {SEGMENTS.value} segments, {DTYPE.value}")
  print(tables.render(
      ["tokens", "form", "forward ms", "forward + backward ms"], cells))


if __name__ == "__main__":
  start.run(main)
