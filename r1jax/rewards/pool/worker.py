"""A child of the pool: reads items, applies rules, replies line by line.

Started as `python -P -m r1jax.rewards.pool.worker`, so that neither the
parent's main module nor JAX is imported. The protocol is JSON lines on stdin
and stdout:

  in   {"rules": {name: [module, function], or {verifier: [module, function]}},
        "deadline": seconds}                                          once
  out  "ready"
  in   {"prompts": [fields], "items": [[prompt, tail, completion], ...]}
  out  [[value, valid, reason, parts, answer] or null, ...]    one an item

A reply has one entry for every rule that the prompt's verifier selects, in the
header's order; null means that the rule does not apply. The reply "retired"
announces that the worker exits because it used much memory, and should be
replaced.

The kernel enforces the deadline: an alarm with the default action kills this
process even in a C loop, and even if the parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import resource
import signal
import sys
import types
from typing import Any

from r1jax.rewards import response
from r1jax.rewards.score import Rule, Score

MEMORY = 2 << 30  # limit of the address space in bytes; sympy needs a quarter
# Resident memory, in the kernel's unit, above which a worker is replaced.
_SPENT = MEMORY * 3 // 4 // (1 if sys.platform == "darwin" else 1024)
_REASON = 200  # most characters of a reason

Table = dict[str, Rule]


def main() -> None:
  """Serves until stdin is closed, as it is when the parent dies."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  # The protocol does not use descriptors 0 and 1, so that a rule may print.
  requests, replies = os.dup(0), os.dup(1)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(2, 1)
  with os.fdopen(requests, "rb") as lines:
    header = json.loads(lines.readline() or "null")
    if header is None:
      return
    rules = [_load(at) for at in header["rules"].values()]
    _reply(replies, "ready")
    for line in lines:
      request = json.loads(line)
      prompts = [_prompt(rules, fields) for fields in request["prompts"]]
      for index, tail, completion in request["items"]:
        signal.setitimer(signal.ITIMER_REAL, header["deadline"])
        verdicts, spent = _judge(*prompts[index], tail, completion)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(replies, verdicts)
        if spent:
          _reply(replies, "retired")
          return


def _load(at: Any) -> Rule | Table:
  if isinstance(at, dict):
    return {verifier: _load(address) for verifier, address in at.items()}
  module, function = at
  return getattr(importlib.import_module(module), function)


def _prompt(rules: list[Rule | Table], fields: dict[str, Any],
            ) -> tuple[list[Rule], types.SimpleNamespace]:
  """(rules that judge a prompt, the prompt)."""
  fields["question"] = fields["messages"][-1]["content"]
  verifier = fields["verifier"]
  chosen = [
      rule[verifier] if isinstance(rule, dict) else rule for rule in rules
      if verifier or not isinstance(rule, dict)]
  return chosen, types.SimpleNamespace(**fields)


def _judge(rules: list[Rule], prompt: Any, tail: str,
           completion: str) -> tuple[list[Any], bool]:
  """(reply, whether this process used so much memory that it must be replaced).

  An exception in a rule, even SystemExit, makes only its own verdict invalid.
  """
  try:
    parts = response.split(tail, completion)
  except Exception as error:
    return [_invalid(error)] * len(rules), isinstance(error, MemoryError)
  verdicts, spent = [], False
  for rule in rules:
    try:
      verdicts.append(_plain(rule(prompt, parts), _name(rule)))
    except BaseException as error:
      verdicts.append(_invalid(error, _name(rule)))
      spent = spent or isinstance(error, MemoryError)
  return verdicts, spent or peak() > _SPENT


def peak() -> int:
  """This program's peak resident memory, in the kernel's unit."""
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  if resident <= _SPENT or sys.platform != "linux":
    return resident
  # On Linux ru_maxrss starts at the peak of the parent process, which may hold
  # a whole model; VmHWM in /proc starts with this program.
  with open("/proc/self/status", "rb") as lines:
    return next((int(line.split()[1]) for line in lines
                 if line.startswith(b"VmHWM:")), resident)


def _name(rule: Rule) -> str:
  return f"{rule.__module__}.{rule.__name__}"


def _scalar(value: Any) -> Any:
  """A NumPy scalar as a Python number, without importing NumPy."""
  kind = type(value)
  return value.item() if kind.__module__ == "numpy" and (
      hasattr(value, "item")) else value


def _plain(score: Any, rule: str) -> list[Any] | None:
  """A verdict as a JSON value; None if the rule does not apply.

  A rule may also return a number.
  """
  if score is None:
    return None
  score = _scalar(score)
  if isinstance(score, bool | int | float):
    score = Score(float(score), True, "")
  if not isinstance(score, Score):
    return [0.0, False, f"the rule {rule} returned {score!r}, no Score"[
        :_REASON], {}, None]
  value = _scalar(score.value)
  parts = {k: _scalar(v) for k, v in score.parts.items()}
  numbers = [value, *parts.values()]
  if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
    kind = "a value or part that is no finite number"
  elif not all(isinstance(name, str) for name in score.parts):
    kind = "a part whose name is no text"
  elif score.answer is not None and not isinstance(score.answer, str):
    kind = "an answer that is no text"
  else:
    return [float(value), bool(score.valid), str(score.reason)[:_REASON],
            {k: float(v) for k, v in parts.items()}, score.answer]
  return [0.0, False, f"the rule {rule} returned {kind}: {score!r}"[:_REASON],
          {}, None]


def _invalid(error: BaseException, rule: str = "") -> list[Any]:
  by = f" (the rule {rule})" if rule else ""
  said = f"{type(error).__name__}: {error}"[:_REASON - len(by)]
  return [0.0, False, said + by, {}, None]


def _reply(replies: int, value: Any) -> None:
  data = json.dumps(value).encode() + b"\n"
  while data:
    data = data[os.write(replies, data):]


if __name__ == "__main__":
  with contextlib.suppress(BrokenPipeError):
    main()
