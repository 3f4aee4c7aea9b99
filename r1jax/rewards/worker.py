"""A child of the pool: reads tasks, applies rules, answers line by line.

Started as `python -P -m r1jax.rewards.worker`, so the parent's main module and
JAX are never imported here. The protocol is JSON lines on stdin and stdout:

  in   {"rules": {name: [module, function]}, "deadline": seconds}   once
  out  "ready"
  in   {"prompts": [fields], "tasks": [[rule, prompt, tail, completion]]}
  out  [value, valid, reason]                    one per task, in order

The kernel holds the deadline: an alarm with the default action kills this
process even in the middle of a C loop, and even if the parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import resource
import signal
import types
from typing import Any

from r1jax.rewards.score import Rule, Score

MEMORY = 2 << 30  # bytes of address space; sympy needs a quarter of it


def main() -> None:
  """Serves until stdin ends, which it does when the parent dies."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  # The protocol moves off 0 and 1: a rule that prints must not break it.
  requests, replies = os.dup(0), os.dup(1)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(2, 1)
  with os.fdopen(requests, "rb") as lines:
    header = json.loads(lines.readline() or "null")
    if header is None:
      return
    rules = {name: _load(*at) for name, at in header["rules"].items()}
    _reply(replies, "ready")
    for line in lines:
      request = json.loads(line)
      prompts = [types.SimpleNamespace(**p) for p in request["prompts"]]
      for name, prompt, tail, completion in request["tasks"]:
        signal.setitimer(signal.ITIMER_REAL, header["deadline"])
        verdict = _judge(rules[name], prompts[prompt], tail, completion)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(replies, verdict)


def _load(module: str, function: str) -> Rule:
  return getattr(importlib.import_module(module), function)


def _judge(rule: Rule, prompt: Any, tail: str, completion: str) -> list[Any]:
  """[value, valid, reason]; whatever the rule raises costs only this task."""
  try:
    score = rule(prompt, tail, completion)
    if not isinstance(score, Score) or not math.isfinite(score.value):
      return [0.0, False, f"the rule returned {score!r}"[:200]]
    return [float(score.value), bool(score.valid), str(score.reason)]
  except BaseException as error:  # SystemExit too: a rule may not end the pool
    return [0.0, False, f"{type(error).__name__}: {error}"[:200]]


def _reply(replies: int, value: Any) -> None:
  data = json.dumps(value).encode() + b"\n"
  while data:
    data = data[os.write(replies, data):]


if __name__ == "__main__":
  with contextlib.suppress(BrokenPipeError):
    main()
