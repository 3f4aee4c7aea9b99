"""Calls an experiment with several command lines, importing what is slow once.

A process of this file waits for the calls of all tests of a pytest process.
Every call is a fork of it, made before JAX starts.

  python -m tests.experiments.calls < REQUESTS > ANSWERS

A request is a line of JSON, [module, [[argument, ...], ...], environment,
folder]; its answer is one, [[status, out, err], ...].
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import pathlib
import pkgutil
import subprocess
import sys
import tempfile
import traceback
from typing import NamedTuple

from r1jax.accounting import cost
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
# What is read when JAX, or Python itself, is imported.
EARLY = ("JAX", "PYTHON")


class Call(NamedTuple):
  """How a call ended."""

  status: int
  out: str
  err: str


def calls(module, *lines, cwd=ROOT, **environment):
  """A Call for each command line (a list of arguments), one after the other."""
  alone = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
  alone |= {"XLA_FLAGS": processes.xla_flags()} | environment
  server = _server(tuple(sorted(
      item for item in alone.items() if item[0].startswith(EARLY))))
  print(json.dumps([module, [[str(x) for x in line] for line in lines], alone,
                    str(cwd)]), file=server.stdin, flush=True)
  answer = server.stdout.readline()
  if not answer:
    raise RuntimeError(f"calls of {module} ended with {server.wait()}")
  return [Call(*call) for call in json.loads(answer)]


@functools.cache
def _server(early):
  """It ends with this process, whose end closes what it reads."""
  rest = {k: v for k, v in os.environ.items() if not k.startswith(EARLY)}
  return subprocess.Popen(
      [sys.executable, "-m", "tests.experiments.calls"], cwd=ROOT, text=True,
      env=rest | dict(early), stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _call(module, arguments, environment, folder):
  with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    child = os.fork()
    if not child:
      os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
      os.dup2(out.fileno(), 1)
      os.dup2(err.fileno(), 2)
      os.chdir(folder)
      leave(module, arguments, environment)
    _, status = os.waitpid(child, 0)
    for file in (out, err):
      file.seek(0)
    return (os.waitstatus_to_exitcode(status), out.read().decode(),
            err.read().decode())


def leave(module, arguments, environment):
  """In a fork: runs the experiment and leaves as the interpreter would."""
  code = 1
  cost._spent = cost._Spent()  # its time begins here
  sys.argv = [module, *arguments]
  os.environ.clear()
  os.environ.update(environment)
  try:
    experiment = importlib.import_module(module)
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


def import_all():
  """Imports what experiments do, but none: their flags have the same names."""
  import tensorboardX  # noqa: F401 - it imports torch, which takes seconds

  from r1jax import ahead, plans, stages

  for package in (stages, ahead, plans):
    for found in pkgutil.walk_packages(
        package.__path__, f"{package.__name__}."):
      importlib.import_module(found.name)
  # As in tests/conftest.py: less time is spent searching for garbage.
  gc.set_threshold(20_000)
  gc.collect()
  gc.freeze()


if __name__ == "__main__":
  import_all()
  for _request in sys.stdin:
    _module, _lines, *_rest = json.loads(_request)
    print(json.dumps([_call(_module, line, *_rest) for line in _lines]),
          flush=True)
