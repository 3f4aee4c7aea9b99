"""Experiments: `python -m experiments.NAME` runs one of them.

Its imports take seconds, and `start.run` handles signals only after them. Until
then a signal ends the process at once, with the status that README names.
"""

from __future__ import annotations

import os
import signal
import sys
import types


def leave(number: int, frame: types.FrameType | None) -> None:
  """Ends a process that has not begun anything."""
  name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
  os.write(2, f"\n{name}: stopped before it had begun\n".encode())
  if number == signal.SIGINT:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
  os._exit(os.EX_TEMPFAIL)


if sys.argv[0] == "-m":  # so while -m looks for the module to run
  signal.signal(signal.SIGTERM, leave)
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
