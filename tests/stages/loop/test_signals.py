import os
import signal

import pytest

from r1jax.stages.loop import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_sets_a_flag(number):
  former = signal.getsignal(number)
  with signals.Preemption() as preemption:
    assert not preemption.requested() and not preemption.name
    os.kill(os.getpid(), number)
    assert preemption.requested()
    assert preemption.name == signal.Signals(number).name
  assert signal.getsignal(number) is former


def test_the_second_interrupt_stops_at_once():
  with pytest.raises(KeyboardInterrupt):
    with signals.Preemption():
      os.kill(os.getpid(), signal.SIGTERM)
      os.kill(os.getpid(), signal.SIGINT)


def test_repeated_sigterm_waits():
  with signals.Preemption() as preemption:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.requested()
