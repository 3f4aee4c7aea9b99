"""Leaves out dialogues that read badly: loops, mixed languages, no thought.

  python -m experiments.filter_sft --data=FILE.jsonl --out=CLEAN.jsonl

Rows are those of train_sft; a row's "language" says what its thoughts should be
in. What was left out, and why, is printed; the rows that stay are unchanged.
"""

from __future__ import annotations

import collections
import json

from absl import flags
from etils import epath

from experiments import flagset, start
from r1jax.core import io
from r1jax.core.config import check
from r1jax.data import filters, sft
from r1jax.data.filters import FilterConfig
from r1jax.report import tables

DATA = flags.DEFINE_string("data", "", "JSONL file of dialogues.")
OUT = flags.DEFINE_string("out", "", "JSONL file to write.")
FILTER = flagset.define(FilterConfig)


def main() -> None:
  cfg = FILTER.value()
  check(bool(DATA.value and OUT.value),
        "--data=FILE.jsonl and --out=CLEAN.jsonl must be given")
  check(not epath.Path(OUT.value).exists(),
        f"{OUT.value} exists; remove it or choose another --out")
  parsed = list(sft.read(DATA.value))  # says why rows are malformed
  lines = [line for line in epath.Path(DATA.value).read_bytes().split(b"\n")
           if line.strip()]
  kept, counts = [], collections.Counter()
  for line, (where, messages, _) in zip(lines, parsed, strict=True):
    if isinstance(messages, str):
      print(f"{where}: {messages}", flush=True)
      counts["malformed"] += 1
      continue
    passed, left_out = filters.apply([json.loads(line)], cfg)
    counts.update(left_out)
    if passed:
      kept.append(line + b"\n")
  io.write_bytes(OUT.value, b"".join(kept))
  print(tables.render(["rows", "count"], [
      ["read", str(len(lines))], *([k, str(v)] for k, v in counts.items()),
      ["kept", str(len(kept))]]))


if __name__ == "__main__":
  start.run(main)
