"""A run of several processes of which one comes to harm, for test_watchdog.py.

  python -m tests.sharding.watched FILE VICTIM HARM [--distributed....]

When it does, FILE is written.
"""

import os
import pathlib
import signal
import sys
import time

import jax

from experiments import start
from r1jax.sharding import processes, watchdog

STEPS, AT = 1000, 20


def harm(kind):
  pathlib.Path(FILE).touch()
  if kind == "hang":
    time.sleep(1000)
  elif kind == "bad":
    raise ValueError("the disk is full")
  elif kind == "bug":
    raise KeyError("lost")
  else:
    os.kill(os.getpid(), getattr(signal, kind))


def main():
  for step in range(1, STEPS):
    processes.gather(step)
    if step == AT and HARM == "none":
      print("done", flush=True)
      return
    if step == AT and VICTIM in ("all", str(jax.process_index())):
      harm(HARM)
    time.sleep(0.02)
    watchdog.mark(f"step {step}")


if __name__ == "__main__":
  _, FILE, VICTIM, HARM, *_rest = sys.argv
  sys.argv[1:] = _rest
  start.run(main, many=True)
