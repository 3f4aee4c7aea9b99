"""An experiment that gets signals where no loop waits for them.

  tests.experiments.signalled --workdir=DIR --signals=SIGTERM,SIGTERM

DIR/cleaned is written by the clean-up, between two signals if there are two.
"""

import os
import pathlib
import signal

from absl import flags

FOLDER = flags.DEFINE_string("workdir", "", "Folder to write.")
SIGNALS = flags.DEFINE_list("signals", [], "Names of signals to itself.")


def main():
  # A suite in the background has Ctrl-C ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  first, *others = SIGNALS.value
  try:
    os.kill(os.getpid(), signal.Signals[first])
  finally:
    for name in others:
      os.kill(os.getpid(), signal.Signals[name])
    pathlib.Path(FOLDER.value, "cleaned").touch()
