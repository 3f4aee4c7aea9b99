"""The benchmark of servers, with one server of a tiny model as both."""

import os
import signal

import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from experiments.benchmarks import serve  # noqa: E402
from tests.serving.served import served, tiny  # noqa: E402


class Process:
  """Stores the signals that it gets."""

  def __init__(self, name, log):
    self._name, self._log, self.pid = name, log, os.getpid()

  def send_signal(self, number):
    self._log.append((self._name, number))


def test_measure():
  log, pairs, level, new = [], 2, 3, 4
  with served(tiny()) as (_, client):
    url = str(client.base_url).rstrip("/")
    servers = {name: serve.Server(url, "m", Process(name, log))
               for name in ("r1jax", "other")}
    found = serve.measure(servers, level, 7, pairs, new)
  assert set(found) == set(servers)
  for got in found.values():
    assert len(got["tokens_per_s"]) == pairs
    assert all(speed > 0 for speed in got["tokens_per_s"])
    assert all(speed > 0 for speed in got["tokens_per_cpu_s"])
    assert 0 <= got["full"] <= 1 and got["same"] == 1
    assert got["prompt"] == found["r1jax"]["prompt"] > level
  # One at a time, the other stopped.
  assert log == [(name, number) for _ in range(pairs + 1) for name in servers
                 for number in (signal.SIGCONT, signal.SIGSTOP)]


def test_no_question_comes_twice():
  turns = [serve.questions(32, turn) for turn in range(9)]
  assert len({text for texts in turns for text in texts}) == 9 * 32
  assert len({len(text) for texts in turns for text in texts}) == 1
