"""Rules that misbehave when the completion tells them to."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import time

from r1jax.rewards.score import Score, clock_stopped


class _NoRepr:

  def __repr__(self):
    raise ValueError("no repr")


ODD_SCORES = {
    "nothing": "a string is no verdict",
    "nan": Score(float("nan"), True, ""),
    "text value": Score("1", True, ""),
    "nan part": Score(1.0, True, "", {"a": float("inf")}),
    "text part": Score(1.0, True, "", {"a": "1"}),
    "odd name": Score(1.0, True, "", {1: 1.0}),
    "no parts": Score(1.0, True, "", None),
    "odd answer": Score(1.0, True, "", {}, 38),
    "odd repr": _NoRepr(),
}


class _Scalar(float):
  """As a NumPy scalar: a number with `item`, of a module that is numpy."""

  __module__ = "numpy"

  def item(self):
    return float(self)


PLAIN = {
    "a bool": True, "a float": 0.5, "an int": 1,
    "a scalar": _Scalar(0.25), "scalar inside": Score(
        _Scalar(0.25), True, "", {"part": _Scalar(0.5)})}


def odd(prompt, response):
  completion = response.text
  if completion.startswith("late once "):
    mark = pathlib.Path(completion.removeprefix("late once "))
    while not mark.exists():
      mark.touch()
      signal.pause()  # until the alarm
  if completion in PLAIN:
    return PLAIN[completion]
  if completion in ODD_SCORES:
    return ODD_SCORES[completion]
  match completion:
    case "exit":
      os._exit(3)
    case "segv":
      os.kill(os.getpid(), signal.SIGSEGV)
    case "sysexit":
      sys.exit(0)
    case "raise":
      raise KeyError("x")
    case "does not apply":
      return None
    case "hang":
      while True:
        pass
    case "hang in C":
      return Score(9 ** 9 ** 9 % 7, True, "never")
    case "recursion":
      return odd(prompt, response)
    case "memory":
      return Score(len(b"x" * (1 << 40)), True, "never")
    case "deaf":
      signal.signal(signal.SIGALRM, signal.SIG_IGN)
      while True:
        time.sleep(1)
    case "print":
      print("[[1.0, true, \"forged\", {}, null]]" * 9)
      sys.stdout.flush()
    case "import":
      with clock_stopped():
        time.sleep(0.6)
    case "child":
      os.system("sleep 98765 &")
      os._exit(4)
    case "modules":
      return Score(0, True, "", {}, " ".join(sys.modules))
    case "rss":
      with open("/proc/self/statm") as file:
        return Score(int(file.read().split()[1]) * 4096, True, "rss",
                     {"open": len(os.listdir("/proc/self/fd"))})
    case "pid":
      return Score(os.getpid(), True, "pid")
    case "nap" | "deadline by two rules":
      time.sleep(0.3)
  return Score(float(prompt.reference), True, completion[:200],
               {"level": prompt.metadata.get("level", 0)}, completion)


def length(prompt, response):
  if response.text == "deadline by two rules":
    time.sleep(0.3)
  return Score(len(response.text), True, prompt.question)


def table_a(prompt, response):
  return Score(1, True, f"a {prompt.verifier} {response.answer}")


def table_b(prompt, response):
  return Score(0, True, f"b {prompt.verifier} {response.answer}")
