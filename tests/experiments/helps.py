"""What experiments say of their flags in --help, and what they take.

  python -m tests.experiments.helps MODULE... < ARGUMENTS

ARGUMENTS is JSON [argument, ...]. Each module is imported in a process of its
own, since flags are global. Written is JSON {module: {flag: [the default in its
help, the value that its dataclass has]}}.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from absl import flags

from experiments import flagset, recipe

ROOT = pathlib.Path(__file__).parents[2]


def helps(modules, *arguments):
  """{module: {flag: (in help, taken)}} of the modules' flag sets."""
  done = subprocess.run(
      [sys.executable, "-m", "tests.experiments.helps", *modules], cwd=ROOT,
      input=json.dumps(arguments), text=True, capture_output=True)
  if done.returncode:
    raise RuntimeError(done.stderr)
  return json.loads(done.stdout)


def names(modules):
  """{module: the flags that its --help lists} as a user reads it."""
  done = subprocess.run(
      [sys.executable, "-m", "tests.experiments.helps", "--names", *modules],
      cwd=ROOT, input="[]", text=True, capture_output=True)
  if done.returncode:
    raise RuntimeError(done.stderr)
  return json.loads(done.stdout)


def _leaves(prefix, value):
  """(flag, text) of every field of a dataclass."""
  for field in dataclasses.fields(value):
    if not field.metadata.get("flag", True):
      continue
    name = f"{prefix}.{field.name}" if prefix else field.name
    inner = getattr(value, field.name)
    if dataclasses.is_dataclass(inner):
      yield from _leaves(name, inner)
    else:
      yield name, flagset.text(inner)


def _found(module, arguments):
  importlib.import_module(module)
  sets = {id(x): x for name in list(sys.modules)
          if name.startswith("experiments.")
          for x in vars(sys.modules[name]).values()
          if isinstance(x, flagset.FlagSet)}
  argv = [module, *arguments]
  recipe.apply(argv, flags.FLAGS)
  flags.FLAGS(argv)
  text = flags.FLAGS.get_help()
  shown = {}
  for entry in re.split(r"\n\s*--", text):
    name = re.match(r"(?:\[no\])?([\w.]+)", entry)
    default = re.search(r"\(default: (.*?)\)\n", entry + "\n")
    if name:
      shown[name[1]] = default[1].strip("'") if default else "none"
  return {name: (shown[name], taken) for found in sets.values()
          for name, taken in _leaves(found.prefix, found.value())}


def _listed(module, _):
  """Flags in what MODULE --help prints."""
  experiment, start = importlib.import_module(module), importlib.import_module(
      "experiments.start")
  source = pathlib.Path(experiment.__file__).read_text()
  with (contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.suppress(SystemExit)):
    sys.argv = [module, "--help"]
    start.run(experiment.main, devices="devices=False" not in source)
  return re.findall(r"^  -?-(?:\[no\])?([\w.]+):", out.getvalue(), re.M)


def _apart(found, module, arguments):
  with tempfile.TemporaryFile("w+") as out:
    child = os.fork()
    if not child:
      try:
        json.dump(found(module, arguments), out)
        out.flush()
        os._exit(0)
      finally:  # reached with an exception alone; its traceback is printed
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    if os.waitpid(child, 0)[1]:
      sys.exit(1)
    out.seek(0)
    return json.load(out)


if __name__ == "__main__":
  for _slow in ("ahead.aot", "stages.evaluating", "stages.exporting",
                "stages.grpo", "stages.pretrain", "stages.reports.reporting",
                "stages.sft", "stages.tasks"):  # imported once, for all
    importlib.import_module(f"r1jax.{_slow}")
  _arguments = json.load(sys.stdin)
  _modules = [m for m in sys.argv[1:] if m != "--names"]
  _how = _found if _modules == sys.argv[1:] else _listed
  print(json.dumps({m: _apart(_how, m, _arguments) for m in _modules}))
