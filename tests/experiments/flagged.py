"""Whether command lines have only flags and values that experiments take.

  python -m tests.experiments.flagged < LINES

LINES is JSON [[module, [argument, ...]], ...]; written is JSON [error, ...], ""
where all is well. Nothing is run: flags are parsed, above the recipe where
there is one, and their dataclasses are made. A module without arguments, as
[module, null], is answered with the names of its flags.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile

from absl import flags

from experiments import flagset, recipe
from tests.experiments.calls import ROOT


def errors(lines):
  """For each (module, arguments) what is wrong with it, or ""."""
  done = subprocess.run(
      [sys.executable, "-m", "tests.experiments.flagged"], cwd=ROOT, text=True,
      input=json.dumps(lines), capture_output=True)
  if done.returncode:
    raise RuntimeError(done.stderr)
  return json.loads(done.stdout)


def _parse(module, arguments):
  importlib.import_module(module)
  if arguments is None:
    raise _Names(" ".join(flags.FLAGS))
  argv = [module, *arguments]
  recipe.apply(argv, flags.FLAGS)
  flags.FLAGS(argv)
  for name in [name for name in sys.modules if name.startswith("experiments.")]:
    for value in vars(sys.modules[name]).values():
      if isinstance(value, flagset.FlagSet):
        value.value()


class _Names(Exception):
  """The answer where flags are asked for."""


def _error(module, arguments):
  with tempfile.TemporaryFile("w+") as out:
    child = os.fork()
    if not child:
      try:
        _parse(module, arguments)
      except _Names as names:
        out.write(str(names))
      except BaseException as error:  # whatever it is, it is the answer
        out.write(f"{type(error).__name__}: {error}")
      out.flush()
      os._exit(0)
    os.waitpid(child, 0)
    out.seek(0)
    return out.read()


if __name__ == "__main__":
  for _slow in ("evaluating", "exporting", "grpo", "pretrain",
                "reports.reporting", "reward", "sft",
                "tasks"):  # imported once, for all
    importlib.import_module(f"r1jax.stages.{_slow}")
  print(json.dumps([_error(*line) for line in json.load(sys.stdin)]))
