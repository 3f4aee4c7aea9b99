"""Builds training prompts: several sources, decontaminated and deduplicated.

  python -m experiments.build_data --sources=gsm8k,mbpp --data_dir=DIR \\
      --against=gsm8k@test,humaneval --out=runs/data

writes train.jsonl (one prompt per line), report.json (what was left out, and
why), statistics.txt and statistics.png. NAME@SPLIT selects a split; the default
is --split in --sources, and test in --against.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.data.sources import (
    decontaminate,
    duplicates,
    load,
    mixture,
    statistics,
)
from r1jax.data.sources.builders import record
from r1jax.report import data_figure
from r1jax.report.progress import Progress

from . import flagset, start

SOURCES = flags.DEFINE_string(
    "sources", "", "Data sets for training by name, separated by commas; of"
    " duplicates that of the earlier source is kept.")
SPLIT = flags.DEFINE_string(
    "split", "train", "Split of the sources without @SPLIT.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder of the data sets' own files.")
AGAINST = flags.DEFINE_string(
    "against", "", "Evaluations to decontaminate against, such as"
    " gsm8k@test,humaneval; or none.")
OUT = flags.DEFINE_string("out", "", "Folder to write.")
SHARED = flagset.define(decontaminate.Limits, "shared")
SAME = flagset.define(duplicates.Limits, "same")

_CONFIG = "config.json"


def main() -> None:
  sources = _names(SOURCES.value, SPLIT.value, "--sources=gsm8k,mbpp")
  check(bool(OUT.value), "--out=DIR must be given")
  check(bool(AGAINST.value), "--against=NAME@SPLIT,... must be given, or"
        " --against=none if no evaluation is planned")
  against = {} if AGAINST.value == "none" else _names(
      AGAINST.value, "test", "--against=gsm8k@test")
  both = sorted(set(sources.values()) & set(against.values()))
  check(not both, f"{'@'.join(both[0]) if both else ''} is in --sources and in"
        " --against: all of it would be removed")
  shared = SHARED.value()
  same = SAME.value()
  read = {}
  for flag, named in ((SOURCES, sources), (AGAINST, against)):
    with flagset.naming(flag):
      read |= {which: _load(*which) for which in dict.fromkeys(named.values())
               if which not in read}
  parts = {name: read[which][0] for name, which in sources.items()}
  sets = {name: read[which][0] for name, which in against.items()}
  config = {"sources": {name: "@".join(w) for name, w in sources.items()},
            "against": {name: "@".join(w) for name, w in against.items()},
            "shared": dataclasses.asdict(shared),
            "same": dataclasses.asdict(same),
            "inputs": {"@".join(which): _digest(prompts)
                       for which, (prompts, _) in read.items()}}
  out = epath.Path(OUT.value)
  _check_unused(out, config)
  clean, dropped, copies = _selected(parts, sets, shared, same)
  left = {name: prompts for name, prompts in clean.items() if prompts}
  check(len(left) > 0, f"nothing is left of {', '.join(parts)}")
  # Numbered before removal, so that ids do not depend on what is left.
  numbered = [mixture.number(clean, name, prompt)
              for name, prompts in clean.items() for prompt in prompts]
  report = {
      "read": {name: len(prompts) for name, prompts in parts.items()},
      "malformed": {name: {"rows": len(rows), "examples": rows[:5]}
                    for (name, _), (_, rows) in read.items() if rows},
      "kept": {name: len(prompts) for name, prompts in clean.items()},
      "shared_with_evaluations": decontaminate.summary(dropped),
      "duplicates": duplicates.summary(copies)}
  groups = statistics.groups(numbered)
  table = statistics.table(groups)
  lengths: dict[str, dict[str, np.ndarray]] = {}
  for group in groups:
    lengths.setdefault(group.domain, {})[group.source] = group.lengths
  io.write_json(out / _CONFIG, config)
  io.write_json(out / "report.json", report)
  io.write_text(out / "statistics.txt", f"{table}\n")
  data_figure.draw(lengths, out / "statistics.png")
  # Last, so that the other files exist if this one does.
  io.write_bytes(out / "train.jsonl", _lines(numbered))
  print(_explain(report))
  print(table)
  print(f"wrote {len(numbered)} prompts to {out / 'train.jsonl'}", flush=True)


def _names(text: str, split: str, example: str) -> dict[str, tuple[str, str]]:
  """`gsm8k,mbpp@test` as {name: (data set, split)}."""
  data_sets: dict[str, tuple[str, str]] = {}
  for item in filter(None, map(str.strip, text.split(","))):
    name, _, own = item.partition("@")
    check(item not in data_sets, f"{item!r} is given twice in {text!r}")
    data_sets[item] = name, own or split
  check(len(data_sets) > 0, f"{example} must be given")
  return data_sets


def _load(name: str, split: str) -> tuple[list[Prompt], tuple[str, ...]]:
  """A split's prompts, and the malformed rows of its data set."""
  print(f"reading {name}, {split}", flush=True)
  prompts = load.load(name, DATA_DIR.value or None, split)
  return list(prompts), prompts.skipped


def _selected(parts, sets, shared, same):
  """(kept prompts, shared with evaluations, duplicates) by source."""
  total = sum(map(len, parts.values()))
  index = decontaminate.Evaluations(sets, shared)
  with Progress("decontaminating", total, unit="prompts") as progress:
    clean, dropped = decontaminate.decontaminate(
        parts, index, lambda count: progress.step({}, count))
  total = sum(map(len, clean.values()))
  with Progress("deduplicating", total, unit="prompts") as progress:
    clean, copies = duplicates.drop(
        clean, same, lambda count: progress.step({}, count))
  return clean, dropped, copies


def _check_unused(out: epath.Path, config: Mapping[str, Any]) -> None:
  """Raises if the folder was made with other settings, or has other files."""
  path = out / _CONFIG
  if not path.exists():
    check(not out.exists() or not any(out.iterdir()), f"{out} is not empty and"
          f" has no {_CONFIG}; choose another --out")
    return
  lines = config_lib.difference(io.read_json(path), dict(config))
  check(not lines, f"{out} was made with other settings or from other data"
        " (old -> new):\n" + "\n".join(f"  {line}" for line in lines)
        + "\nNothing was changed; choose another --out")


def _lines(prompts: Iterable[Prompt]) -> bytes:
  return b"".join(
      json.dumps(record.to_json(prompt), ensure_ascii=False).encode() + b"\n"
      for prompt in prompts)


def _digest(prompts: Sequence[Prompt]) -> str:
  return hashlib.sha256(_lines(prompts)).hexdigest()[:16]


def _explain(report: Mapping[str, Any]) -> str:
  """One line per source: what was read, dropped and kept."""
  lines = [f"{name}: {entry['rows']} malformed rows were skipped"
           for name, entry in report["malformed"].items()]
  for name, count in report["read"].items():
    shared = report["shared_with_evaluations"][name]
    with_whom = ", ".join(
        f"{evaluation} {row['dropped']}"
        for evaluation, row in shared["by_evaluation"].items())
    copies = report["duplicates"][name]
    lines.append(
        f"{name}: {count} prompts, {shared['prompts']} share text with"
        f" evaluations{f' ({with_whom})' if with_whom else ''},"
        f" {copies['exact']['dropped']} are duplicates,"
        f" {copies['near']['dropped']} near duplicates,"
        f" {report['kept'][name]} kept")
  return "\n".join(lines)


if __name__ == "__main__":
  start.run(main)
