"""Writes SFT dialogues of the small world: requests, and wrongs to refuse.

  python -m experiments.world_dialogues --workdir=runs/dialogues
"""

from __future__ import annotations

import json

from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.data.sources.world import dialogues

from . import start

WORKDIR = flags.DEFINE_string("workdir", "runs/dialogues", "Folder to write.")
COUNT = flags.DEFINE_integer(
    "count", 2000, "Number of dialogues.", lower_bound=1)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the dialogues.", lower_bound=0)


def main() -> None:
  path = epath.Path(WORKDIR.value) / "sft.jsonl"
  text = "".join(json.dumps(row, ensure_ascii=False) + "\n"
                 for row in dialogues.rows(COUNT.value, SEED.value))
  check(not path.exists() or path.read_text() == text, f"{path} has other"
        " dialogues, of another --count or --seed; choose another --workdir")
  io.write_text(path, text)
  print(f"wrote {COUNT.value} dialogues to {path}", flush=True)


if __name__ == "__main__":
  start.run(main)
