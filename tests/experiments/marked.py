"""An experiment that a signal may stop, for `calls`."""

import os
import signal

from absl import flags

from r1jax.plans import pipeline
from r1jax.stages.loop import signals

MARK = flags.DEFINE_string("mark", "", "Where the mark shall be.")
SIGNAL = flags.DEFINE_string("signal", "", "Comes in the loop, or later.")


def main():
  os.environ[pipeline.COMPLETE] = MARK.value
  with signals.Preemption() as preemption:
    if SIGNAL.value == "loop":
      os.kill(os.getpid(), signal.SIGTERM)
    preemption.requested()
    if SIGNAL.value == "later":
      os.kill(os.getpid(), signal.SIGTERM)
