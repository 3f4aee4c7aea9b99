"""Calls an experiment with several command lines, importing it once.

  python -m tests.experiments.calls MODULE < LINES

LINES is JSON [[argument, ...], ...]. Every call is a process of its own, forked
before JAX starts; how they ended is written as JSON [[status, out, err], ...].
"""

import contextlib
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
from typing import NamedTuple

from tests import processes

ROOT = pathlib.Path(__file__).parents[2]


class Call(NamedTuple):
  """How a call ended."""

  status: int
  out: str
  err: str


def calls(module, *lines, **environment):
  """A Call for each command line (a list of arguments), one after the other."""
  alone = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
  done = subprocess.run(
      [sys.executable, "-m", "tests.experiments.calls", module], cwd=ROOT,
      input=json.dumps([[str(x) for x in line] for line in lines]), text=True,
      env=alone | {"XLA_FLAGS": processes.xla_flags()} | environment,
      capture_output=True)
  if done.returncode:
    raise RuntimeError(done.stderr)
  return [Call(*call) for call in json.loads(done.stdout)]


def _call(experiment, arguments):
  with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    child = os.fork()
    if not child:
      os.dup2(out.fileno(), 1)
      os.dup2(err.fileno(), 2)
      _exit(experiment, arguments)
    _, status = os.waitpid(child, 0)
    for file in (out, err):
      file.seek(0)
    return (os.waitstatus_to_exitcode(status), out.read().decode(),
            err.read().decode())


def _exit(experiment, arguments):
  """Runs the experiment and leaves as the interpreter would."""
  code = 1
  sys.argv = [experiment.__name__, *arguments]
  try:
    importlib.import_module("experiments.start").run(experiment.main)
    code = 0
  except SystemExit as end:
    code = end.code
    if isinstance(code, str):
      print(code, file=sys.stderr)
    code = int(code is not None) if not isinstance(code, int) else code
  except BaseException:  # its traceback is what the caller looks for
    traceback.print_exc()
  finally:
    with contextlib.suppress(OSError):
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
  _module = importlib.import_module(sys.argv[1])
  print(json.dumps([_call(_module, line) for line in json.load(sys.stdin)]))
