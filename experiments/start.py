"""How every experiment starts, and how it ends.

Its status: 0, all is done; 75, it was stopped by a signal, or another process
was lost or has the folder: the same command goes on; 1, an error that says what
to mend; 130, a second Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
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

from . import flagset, recipe

# What users can mend: bad input, a full disk, gradients that stay non-finite.
EXPECTED = (ValueError, OSError, FloatingPointError)


def run(main: Callable[[], Any], *, many: bool = False, devices: bool = True
        ) -> None:
  """Runs `main` under absl; what users can mend is said without traceback.

  Args:
    main: the experiment.
    many: whether several processes may do it together; the first then prints.
    devices: whether it uses JAX's devices, and so joins other processes.
  """
  joining = (flagset.define(DistributedConfig, "distributed") if devices
             else None)

  def wrapped(argv: list[str]) -> int:
    if len(argv) > 1:
      raise SystemExit(f"error: unexpected arguments {' '.join(argv[1:])};"
                       " flags are --name=value")
    logging.set_verbosity(logging.WARNING)
    try:
      if joining and distributed.initialize(joining.value()):
        _together(main, many, joining.value())
      else:
        main()
        _mark()
    except EXPECTED as error:
      if os.environ.get("R1JAX_TRACEBACK"):
        raise
      if _status(error) == watchdog.AGAIN:
        print(_brief(error), file=sys.stderr, flush=True)
        return watchdog.AGAIN
      raise SystemExit(_brief(error)) from error
    except KeyboardInterrupt as error:
      _stop_at_once(error)
      raise
    return watchdog.AGAIN if signals.stopped() else 0

  if "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    # Simulated devices: a collective that waits for the others holds a thread,
    # and with one thread a device they can wait for each other for ever.
    os.environ.setdefault("PJRT_NPROC", "64")
  if (here := os.getcwd()) not in sys.path:
    sys.path.append(here)  # module:function of the user's
  _list_all_flags()
  app.run(wrapped, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
  """The command line, above the recipe where the experiment has recipes.

  A wrong flag is one sentence, not the pages of help that absl prints.
  """
  try:
    recipe.apply(argv, flags.FLAGS)
    return flags.FLAGS(argv)
  except (*EXPECTED, flags.Error) as error:
    raise SystemExit(f"error: {error}\n(--help lists all flags)") from error


def _together(main: Callable[[], Any], many: bool, config: DistributedConfig
              ) -> None:
  """`main` as one of several processes; if one fails, all end."""
  # Collectives that wait hold a thread, as those of simulated devices above.
  os.environ.setdefault("PJRT_NPROC", "64")
  watchdog.start(config.heartbeat_timeout, config.stall_timeout)
  if not processes.is_writer():
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the end
  try:
    check(many, "this command runs in one process; start it alone")
    main()
    processes.gather("done")  # nobody leaves while another still works
    processes.from_writer(_mark)
  except BaseException as error:
    watchdog.blame(error)
    _say(error)
    watchdog.failed(error)
    # An ordinary exit would wait for processes that no longer come.
    os._exit(_status(error))
  watchdog.stop()
  jax.distributed.shutdown()


def _status(error: BaseException) -> int:
  """Of a process that ends with an error."""
  busy = isinstance(error, OSError) and error.errno == errno.EBUSY
  return watchdog.AGAIN if busy else 1


def _mark() -> None:
  """Tells the pipeline that all is done, not merely saved after a signal."""
  if (path := os.environ.get(pipeline.COMPLETE)) and not signals.stopped():
    io.write_text(path, "")


def _stop_at_once(error: KeyboardInterrupt) -> None:
  """Ends as Ctrl-C does where Python would wait for threads that still write.
  """
  me = threading.current_thread()
  if any(not t.daemon for t in threading.enumerate() if t is not me):
    print(f"\n{error}", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _say(error: BaseException) -> None:
  """What becomes of an error in one of several processes."""
  with contextlib.suppress(OSError):
    if isinstance(error, EXPECTED) and not os.environ.get("R1JAX_TRACEBACK"):
      print(_brief(error), file=sys.stderr)
    else:
      traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()


def _brief(error: BaseException) -> str:
  # Numbers of the operating system's are for programs.
  text = re.sub(r"^\[Errno \d+\] ", "", str(error))
  return f"error: {text}\n(R1JAX_TRACEBACK=1 shows where)"


def _list_all_flags() -> None:
  """Lets --help list what the experiments declare, wherever they do."""
  for module, declared in flags.FLAGS.flags_by_module_dict().items():
    if "experiments" in module:
      for flag in declared:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
