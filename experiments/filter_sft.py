"""Filters dialogues for SFT: removes loops, mixed languages, missing thoughts.

  python -m experiments.filter_sft --sft_data=FILE.jsonl --out=CLEAN.jsonl

Rows have the form of train_sft; a row's "language" is the one that its thoughts
should be in. Counts of removed rows by reason are printed; the others are
written unchanged.
"""

from __future__ import annotations

import codecs
import collections
from collections.abc import Mapping

from absl import flags
from etils import epath

from r1jax.core import io, scripts
from r1jax.core.config import check
from r1jax.data.sources import filters, json_rows, sft_rows
from r1jax.data.sources.filters import FilterConfig
from r1jax.report import tables

from . import flagset, start

DATA = flags.DEFINE_string("sft_data", "", "JSONL file of dialogues.")
OUT = flags.DEFINE_string("out", "", "JSONL file to write.")
FILTER = flagset.define(FilterConfig)


def main() -> None:
  check(bool(DATA.value and OUT.value),
        "--sft_data=FILE.jsonl and --out=CLEAN.jsonl must be given")
  check(not epath.Path(OUT.value).exists(),
        f"{OUT.value} exists; choose another --out")
  with flagset.naming(DATA):
    kept, counts = filtered(FILTER.value())
  table = tables.render(["rows", "count"], [
      *([k, str(v)] for k, v in counts.items()), ["kept", str(len(kept))]])
  check(len(kept) > 0, f"no row of {DATA.value} is left, nothing was written;"
        f" repair the rows, or give other limits:\n{table}")
  io.write_bytes(OUT.value, b"".join(kept))
  print(table)


def filtered(cfg: FilterConfig) -> tuple[list[bytes], Mapping[str, int]]:
  """(the lines that stay, counts of the rows read and removed)."""
  kept, counts = [], collections.Counter(read=0)
  for where, line in json_rows.lines(DATA.value):
    counts["read"] += 1
    try:
      row = sft_rows.parse(line)
      found = json_rows.parse(line).get("language") or ""
      check(isinstance(found, str), "its language is not a string")
      if found:
        scripts.of_language(found)
    except ValueError as error:
      print(f"{where}: {error}", flush=True)
      counts["malformed"] += 1
      continue
    passed, left_out = filters.apply(
        [{"messages": row.messages, "language": found}], cfg)
    counts.update(left_out)
    if passed:
      kept.append(line.removeprefix(codecs.BOM_UTF8).strip(b"\n") + b"\n")
  sft_rows.check_any(DATA.value, counts["read"])
  return kept, counts


if __name__ == "__main__":
  start.run(main)
