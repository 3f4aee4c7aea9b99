"""Lists or copies the package's launch scripts, plans, recipes, notebooks.

  r1jax files            # prints their folders
  r1jax files --to=.     # copies them, to be changed: ./launch, ./plans, ...

Copied launch scripts start the installed package:
`bash launch/local.sh 2 -- r1jax train_grpo --workdir=runs/two`.
"""

from __future__ import annotations

import pathlib
import shutil

from absl import flags

from r1jax.core import io
from r1jax.core.config import check

from . import start

_FOLDER = pathlib.Path(__file__).parent
# launch/ is beside the experiments, also in a wheel.
FOLDERS = {
    "launch": _FOLDER.parent / "launch", "plans": _FOLDER / "plans",
    "recipes": _FOLDER / "recipes", "notebooks": _FOLDER / "colab"}

TO = flags.DEFINE_string(
    "to", "", "Folder to copy them into; nothing is overwritten.")


def main() -> None:
  check(not io.is_remote(TO.value), f"--to={TO.value}: give a local folder")
  if TO.value:
    copy(pathlib.Path(TO.value))
  else:
    for name, folder in FOLDERS.items():
      print(f"{name:<10} {folder}")


def copy(to: pathlib.Path) -> None:
  """Copies all folders into `to`.

  Raises:
    ValueError: one of them exists there.
    OSError: they cannot be written; none is left there.
  """
  there = [name for name in FOLDERS if (to / name).exists()]
  check(not there, f"{to} has {', '.join(there)} already; move it aside, or"
        " choose another --to")
  try:
    for name, folder in FOLDERS.items():
      for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
          target = to / name / path.relative_to(folder)
          io.write_bytes(target, path.read_bytes())
          shutil.copymode(path, target)
  except BaseException:  # half of them would be in the way of the next try
    for name in FOLDERS:
      shutil.rmtree(to / name, ignore_errors=True)
    raise
  print("\n".join(str(to / name) for name in FOLDERS))


if __name__ == "__main__":
  start.run(main, devices=False)
