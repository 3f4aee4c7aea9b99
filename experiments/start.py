"""Starts and ends every experiment.

Exit status: 0, done; 75, stopped by a signal, or another process was lost or
uses the folder: run the same command again; 1, an error that says what to fix;
130, Ctrl-C where nothing is saved first, or a second one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging

from r1jax.core import io
from r1jax.core.config import check
from r1jax.plans import pipeline
from r1jax.sharding import distributed, processes, watchdog
from r1jax.sharding.distributed import DistributedConfig
from r1jax.stages.loop import signals

from . import flagset, leave, recipe

# Errors that users can fix: bad input, a full disk, non-finite gradients.
EXPECTED = (ValueError, OSError, FloatingPointError)
# Parameters of glibc's mallopt: M_MMAP_THRESHOLD (what is larger is given back
# when it is freed, as it would leave gaps of its size),
# M_TRIM_THRESHOLD (unused memory at the heap's end that is kept), M_TOP_PAD,
# M_ARENA_MAX.
_MALLOC = {-3: 8 << 20, -1: 128 << 20, -2: 64 << 20, -8: 1}
_HOME = re.compile(r"(?<=[=:,])~(?=/|\Z)")
_TEXTS = ("question", "system")  # flags that are no paths


def run(main: Callable[[], Any], *, many: bool = False, devices: bool = True
        ) -> None:
  """Runs `main` under absl; errors that users can fix have no traceback.

  Args:
    main: the experiment.
    many: whether it can run in several processes; only the first one prints.
    devices: whether it uses JAX's devices, and so joins other processes.
  """
  joining = (flagset.define(DistributedConfig, "distributed") if devices
             else None)

  def wrapped(argv: list[str]) -> int:
    if len(argv) > 1:
      raise SystemExit(f"error: unexpected arguments {' '.join(argv[1:])};"
                       " flags are --name=value")
    logging.set_verbosity(logging.WARNING)
    signals.end_cleanly()
    if signal.getsignal(signal.SIGINT) is leave:
      signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
      if joining and distributed.initialize(joining.value()):
        _together(main, many, joining.value())
      else:
        main()
        sys.stdout.flush()
        _mark()
    except EXPECTED as error:
      if os.environ.get("R1JAX_TRACEBACK"):
        raise
      if _status(error) == watchdog.AGAIN:
        print(_brief(error), file=sys.stderr, flush=True)
        return watchdog.AGAIN
      raise SystemExit(_brief(error)) from error
    except (KeyboardInterrupt, signals.Terminated) as error:
      _stop(error)
    return watchdog.AGAIN if signals.stopped() else 0

  if "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    # Simulated devices: a waiting collective occupies a thread, and with one
    # thread per device collectives can deadlock.
    os.environ.setdefault("PJRT_NPROC", "64")
  _keep_freed_memory()
  if (here := os.getcwd()) not in sys.path:
    sys.path.append(here)  # for a user's module:function
  _list_all_flags()
  app.run(wrapped, flags_parser=_parse)


def _keep_freed_memory() -> None:
  """Makes malloc keep small buffers, unless the environment decides on it.

  On a CPU every program takes its buffers anew. By default glibc gives them
  back to the system each time, and an update spends its time in page faults.
  """
  if "GLIBC_TUNABLES" in os.environ:
    return
  with contextlib.suppress(AttributeError, TypeError):  # another C library
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in _MALLOC.items():
      mallopt(parameter, value)


def _parse(argv: list[str]) -> list[str]:
  """Parses the command line, after the recipe if the experiment has recipes.

  A wrong flag gives one sentence instead of absl's pages of help.
  """
  argv = [_at_home(argument) for argument in argv]
  try:
    recipe.apply(argv, flags.FLAGS)
    rest = flags.FLAGS(argv)
    for name in {"workdir", "out"} & set(flags.FLAGS):
      flag = flags.FLAGS[name]
      # One that is empty by default is checked by its experiment.
      check(not flag.present or flag.default == "" or bool(flag.value.strip()),
            f"--{name} is empty; give a folder (is a variable of the shell not"
            " set?)")
    return rest
  except (*EXPECTED, flags.Error) as error:
    # As Python says it.
    text = re.sub(r"invalid literal for int\(\) with base 10: ('.*')",
                  r"\1 is not an integer", str(error))
    text = re.sub(r"could not convert string to float: ('.*')",
                  r"\1 is not a number", text)
    raise SystemExit(f"error: {text}\n(--help lists all flags)") from error


def _at_home(argument: str) -> str:
  """A flag with ~ for the home folder, which a shell leaves after a =.

  Texts are left as they are.
  """
  name, _, value = argument.partition("=")
  if name.lstrip("-") in _TEXTS and not value.startswith("file:"):
    return argument
  return _HOME.sub(lambda _: os.path.expanduser("~"), argument)


def _together(main: Callable[[], Any], many: bool, config: DistributedConfig
              ) -> None:
  """Runs `main` as one of several processes; if one fails, all end."""
  # Waiting collectives occupy threads, as for simulated devices above.
  os.environ.setdefault("PJRT_NPROC", "64")
  watchdog.start(config.heartbeat_timeout, config.stall_timeout)
  if not processes.is_writer():
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the end
  try:
    check(many, "this command runs in one process only; start one process")
    main()
    processes.gather("done")  # no process exits while another still works
    processes.from_writer(_mark)
  except BaseException as error:
    watchdog.blame(error)
    _say(error)
    watchdog.failed(error, _status(error))
    # A normal exit would wait for processes that are gone.
    os._exit(_status(error))
  watchdog.stop()
  jax.distributed.shutdown()


def _status(error: BaseException) -> int:
  """The exit status of a process that ends with an error."""
  if isinstance(error, signals.Terminated):
    return watchdog.AGAIN
  if isinstance(error, KeyboardInterrupt):
    return 128 + signal.SIGINT
  busy = isinstance(error, OSError) and error.errno == errno.EBUSY
  return watchdog.AGAIN if busy else 1


def _mark() -> None:
  """Tells the pipeline that the experiment is complete, not just stopped."""
  if (path := os.environ.get(pipeline.COMPLETE)) and not signals.stopped():
    io.write_text(path, "")


def _stop(error: BaseException) -> None:
  """Ends the process after a signal, without waiting for writing threads."""
  _say(error)
  if isinstance(error, KeyboardInterrupt):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
  os._exit(watchdog.AGAIN)


def _say(error: BaseException) -> None:
  """Prints the error with which this process ends."""
  with contextlib.suppress(OSError):
    if isinstance(error, KeyboardInterrupt | signals.Terminated):
      said = str(error) or "Ctrl-C: stopped; what is complete stays"
      print(f"\n{said}", file=sys.stderr)
    elif isinstance(error, EXPECTED) and not os.environ.get("R1JAX_TRACEBACK"):
      print(_brief(error), file=sys.stderr)
    else:
      traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()


def _brief(error: BaseException) -> str:
  # Without the operating system's error number.
  text = re.sub(r"^\[Errno \d+\] ", "", str(error))
  if isinstance(error, OSError) and error.strerror == os.strerror(
      error.errno or 0):  # it is as the system has said it
    if error.filename is None and _unprinted():
      text = f"could not write what this command prints: {text}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR,
                       errno.EEXIST):
      text += f"; {io.remedy(error.errno)}"
  return f"error: {text}\n(R1JAX_TRACEBACK=1 shows where)"


def _unprinted() -> bool:
  """Whether standard output is on a full disk, or nobody reads it."""
  try:
    print(flush=True)
  except OSError:
    # Else the interpreter would try once more, and print that as well.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
  return False


def _list_all_flags() -> None:
  """Makes --help list the flags of all modules in experiments/."""
  for module, declared in flags.FLAGS.flags_by_module_dict().items():
    if "experiments" in module:
      for flag in declared:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
