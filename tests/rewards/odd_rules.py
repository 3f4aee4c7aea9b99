"""Rules that misbehave when the completion tells them to."""

from __future__ import annotations

import os
import signal
import sys
import time

from r1jax.rewards.score import Score, clock_stopped


def odd(prompt, prompt_tail, completion):
  match completion:
    case "exit":
      os._exit(3)
    case "segv":
      os.kill(os.getpid(), signal.SIGSEGV)
    case "sysexit":
      sys.exit(0)
    case "raise":
      raise KeyError("x")
    case "none":
      return None
    case "nan":
      return Score(float("nan"), True, "")
    case "hang":
      while True:
        pass
    case "hang in C":
      return Score(9 ** 9 ** 9 % 7, True, "never")
    case "memory":
      return Score(len(b"x" * (1 << 40)), True, "never")
    case "deaf":
      signal.signal(signal.SIGALRM, signal.SIG_IGN)
      while True:
        time.sleep(1)
    case "print":
      print("[1.0, true, \"forged\"]")
      sys.stdout.flush()
    case "import":
      with clock_stopped():
        time.sleep(0.6)
    case "child":
      os.system("sleep 98765 &")
      os._exit(4)
    case "modules":
      return Score(0, True, " ".join(sys.modules))
    case "pid":
      return Score(os.getpid(), True, "pid")
  return Score(float(prompt.reference), True, prompt_tail + completion)


def length(prompt, prompt_tail, completion):
  return Score(len(completion), True, str(prompt.metadata.get("level")))
