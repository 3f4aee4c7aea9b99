"""Flags of data sets of questions, and of their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from absl import flags

from r1jax.core.prompt import Prompt
from r1jax.data.sources import load
from r1jax.stages import tasks

from . import flagset

DATA = flags.DEFINE_string(
    "data", "arith", "Data sets of questions, separated by commas, with weights"
    " (arith:2,units:1), passes (arith:3x,units:0.5x) or neither:"
    f" {', '.join(sorted(load.SOURCES))}, or a Python file of your own"
    " (my_task.py).")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder with the files of the data set's publisher, or with"
    " a subfolder of its name (DIR/gsm8k) for every data set.")


def sources(split: flags.FlagHolder | str, data: flags.FlagHolder = DATA
            ) -> Mapping[str, Sequence[Prompt]]:
  """`tasks.load` of a flag's data sets with the files of --data_dir.

  Args:
    split: the flag that names the split of each; or the split.
    data: the flag that names the data sets.
  """
  with flagset.naming(data, None if isinstance(split, str) else split):
    return tasks.load(data.value, split if isinstance(split, str)
                      else split.value, DATA_DIR.value)
