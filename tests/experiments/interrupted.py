"""An experiment that gets signals when it calls a function.

The environment's INTERRUPTED is EXPERIMENT|MODULE:FUNCTION|CALL|SIGNALS, as
train_grpo|r1jax.checkpoint.manager:Manager.save|2|SIGTERM,SIGINT.
"""

import functools
import importlib
import itertools
import operator
import os
import signal

_experiment, _where, _at, _signals = os.environ["INTERRUPTED"].split("|")
main = importlib.import_module(f"experiments.{_experiment}").main
_calls = itertools.count(1)


def _signalled(function):
  @functools.wraps(function)
  def call(*arguments, **options):
    if next(_calls) == int(_at):
      # A suite in the background has Ctrl-C ignored; loops handle it.
      if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
      for name in _signals.split(","):
        os.kill(os.getpid(), signal.Signals[name])
    return function(*arguments, **options)

  return call


_module, _, _name = _where.partition(":")
_owner, _, _name = _name.rpartition(".")
_place = importlib.import_module(_module)
if _owner:
  _place = operator.attrgetter(_owner)(_place)
setattr(_place, _name, _signalled(getattr(_place, _name)))
