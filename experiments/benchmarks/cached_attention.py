"""Times the ways of reading the KV cache in a step of decoding.

  python -m experiments.benchmarks.cached_attention [--json]

docs/log/rollout.md has the table. `r1jax.ops.cached.reading` takes from it
which way a step reads its cache.
"""

from __future__ import annotations

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from r1jax.ops import attention, cached, mla
from r1jax.report import tables

from .. import start
from .output import JSON

ATTENTION = flags.DEFINE_enum(
    "attention", "mla", ["mla", "gqa"], "Latent or grouped-query attention.")
ROWS = flags.DEFINE_integer("rows", 16, "Rows that are decoded together.")
SLOTS = flags.DEFINE_list("slots", ["512", "1024", "2048", "4096"],
                          "Slots of the cache to time.")
FILLED = flags.DEFINE_float(
    "filled", 1.0, "Tokens of a row in slots: 1 for full rows; less is the mean"
    " of an exponential distribution, cut at the slots.", 0.0, 1.0)
HEADS = flags.DEFINE_integer("heads", 16, "Query heads.")
KEY_HEADS = flags.DEFINE_integer("key_heads", 2, "Key heads, for gqa.")
WIDTH = flags.DEFINE_integer(
    "width", 512, "Of the latent, or of a head for gqa.")
ROPE = flags.DEFINE_integer("rope", 64, "Rotated values of a slot, for mla.")
BLOCKS = flags.DEFINE_list("blocks", ["512"], "Slots of a block to time.")
REPS = flags.DEFINE_integer("reps", 7, "Timed runs; the best one counts.")
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Dtype of the cache.")

# Bytes of caches that are read one after the other, more than a CPU holds, and
# the most such caches.
BYTES, CACHES = 2e8, 200


def work(slots: int) -> tuple:
  """(jitted (how, cache) -> result, caches)."""
  rng, rows, heads = np.random.default_rng(0), ROWS.value, HEADS.value

  def normal(*shape):
    return jnp.asarray(rng.standard_normal(shape, np.float32), DTYPE.value)

  lengths = np.full(rows, slots) if FILLED.value == 1 else np.clip(
      rng.exponential(FILLED.value * slots, rows), 1, slots)
  lengths = jnp.asarray(lengths, jnp.int32)
  if ATTENTION.value == "gqa":
    q, shape = normal(rows, 1, heads, WIDTH.value), (rows, KEY_HEADS.value)

    def made():
      return normal(*shape, WIDTH.value, slots), normal(
          *shape, slots, WIDTH.value)

    def run(how, cache):
      return attention.gqa_decode(q, *cache, lengths, 0.1, how=how)
  else:
    queries = normal(rows, 1, heads, 8), normal(rows, 1, heads, ROPE.value)
    up = normal(WIDTH.value, heads, 16)
    made = functools.partial(normal, rows, slots, WIDTH.value + ROPE.value)

    def run(how, cache):
      return mla.absorbed(*queries, cache, up, lengths, 0.1, how=how)
  first = made()
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(first))
  more = min(max(2, int(BYTES / size)), CACHES) - 1
  return jax.jit(run, static_argnums=0), [first, *(made() for _ in range(more))]


def measure(slots: int) -> list[dict]:
  """Milliseconds of every way, alternating."""
  run, caches = work(slots)
  ways = {"whole": cached.WHOLE}
  for block in map(int, BLOCKS.value):
    if block < slots:
      ways |= {f"by {block}": cached.Reading(block),
               f"row by row, by {block}": cached.Reading(row_block=block)}
  best = dict.fromkeys(ways, np.inf)
  for rep in range(1 + REPS.value):
    for name, how in ways.items():
      began = time.perf_counter()
      jax.block_until_ready([run(how, cache) for cache in caches])
      if rep:  # the first compiles
        best[name] = min(best[name], time.perf_counter() - began)
  return [{"attention": ATTENTION.value, "rows": ROWS.value, "slots": slots,
           "filled": FILLED.value, "heads": HEADS.value, "width": WIDTH.value,
           "dtype": DTYPE.value, "reading": name,
           "ms": 1e3 * seconds / len(caches)}
          for name, seconds in best.items()]


def main() -> None:
  found = [row for slots in map(int, SLOTS.value) for row in measure(slots)]
  if JSON.value:
    print("\n".join(map(json.dumps, found)))
    return
  print(f"{jax.default_backend()}, jax {jax.__version__}, {ATTENTION.value},"
        f" {ROWS.value} rows, {HEADS.value} heads, {DTYPE.value}")
  print(tables.render(["slots", "reading", "ms"], [
      [str(row["slots"]), row["reading"], f"{row['ms']:.2f}"]
      for row in found]))


if __name__ == "__main__":
  start.run(main)
