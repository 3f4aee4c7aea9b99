"""Compares the server's tokens per second with those of `transformers serve`.

  pip install -e '.[test,serve]' && pip install 'transformers[serving]'
  python -m experiments.benchmarks.serve --model=DIR [--json]
      [--transformers=transformers] [--levels=1,8,32] [--new=64] [--pairs=2]

Both servers have the same weights in float32, the folder --model, and are asked
the same chats by OpenAI's client, greedily. At each level so many clients ask
at once, one question each. The servers take turns, and the one whose turn it is
not is stopped (SIGSTOP), so that it takes no time from the other. Every level
is asked once before it is measured, for what is compiled or cached then. On a
machine with other work compare tokens per second of CPU time.

transformers is measured twice, one request at a time and with continuous
batching; `--against` chooses.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from r1jax.core.config import check
from r1jax.report import tables

from .. import command as commands
from .. import start
from .output import JSON

MODEL = flags.DEFINE_string(
    "model", "", "Folder of a model as published on Hugging Face.")
TRANSFORMERS = flags.DEFINE_string(
    "transformers", "transformers", "The command `transformers`, which may be"
    " of another environment.")
AGAINST = flags.DEFINE_list(
    "against", ["plain", "continuous"], "Ways of `transformers serve`: plain,"
    " continuous (batching).")
LEVELS = flags.DEFINE_list("levels", ["1", "8", "32"], "Clients at once.")
NEW = flags.DEFINE_integer(
    "new", 64, "The most new tokens of an answer.", lower_bound=1)
PAIRS = flags.DEFINE_integer(
    "pairs", 2, "Measurements of each server at each level.", lower_bound=1)
SERVED = flags.DEFINE_list(
    "served", [], "Further flags of experiments.serve, as max_rows=8.")
_READY = 900  # seconds that a server may take to start
_ASKED = 1800  # seconds that an answer may take
_OURS = "r1jax"
# By default its cache takes 90 % of a CPU's memory; a block has 256 tokens.
_CONTINUOUS = ["--continuous-batching", "--cb-num-blocks=80",
               "--cb-max-batch-tokens=2048"]


class Server(NamedTuple):
  """A server in a process of its own.

  Attributes:
    url: of its API, with /v1.
    model: the model's name in requests.
    process: it and nothing else is stopped while others are measured.
  """

  url: str
  model: str
  process: subprocess.Popen

  @contextlib.contextmanager
  def turn(self) -> Iterator[None]:
    """Lets it run; it is stopped before and after."""
    self.process.send_signal(signal.SIGCONT)
    try:
      yield
    finally:
      self.process.send_signal(signal.SIGSTOP)


def words(name: str, port: int) -> tuple[list[str], str]:
  """(the command of a server, the model's name in requests)."""
  if name == _OURS:
    return [*commands.words("serve"), f"--init=hf:{MODEL.value}",
            "--template=chat:instruct=False", "--compute.dtype=float32",
            "--name=model", f"--port={port}",
            *(f"--{flag}" for flag in SERVED.value)], "model"
  found = [TRANSFORMERS.value, "serve", MODEL.value, "--device=cpu",
           "--dtype=float32", f"--port={port}", "--host=127.0.0.1"]
  return found + _CONTINUOUS * (name == "continuous"), MODEL.value


@contextlib.contextmanager
def served(name: str) -> Iterator[Server]:
  """A server that is ready, and stopped.

  Raises:
    ValueError: it did not start.
  """
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command, model = words(name, port)
  print(*command, file=sys.stderr, flush=True)
  process = subprocess.Popen(
      command, stdout=sys.stderr, env=commands.environment())
  try:
    end = time.monotonic() + _READY
    while True:
      with contextlib.suppress(urllib.error.URLError, ConnectionError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
        break
      check(process.poll() is None and time.monotonic() < end,
            f"the server {name} did not start")
      time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    yield Server(f"http://127.0.0.1:{port}/v1", model, process)
  finally:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
      process.wait(30)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


def cpu_seconds(process: subprocess.Popen) -> float:
  """CPU time of a process and its threads so far (Linux)."""
  stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
  user, system = stat.rpartition(")")[2].split()[11:13]
  return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def questions(count: int, turn: int) -> list[str]:
  """Questions of equal length; no two turns have one in common.

  Servers may keep the caches of what they were asked before.
  """
  return [f"Story {1000 + 100 * turn + i}: tell me a long story of a village by"
          " the sea, its people, and what they did in a year of storms."
          for i in range(count)]


def ask(server: Server, texts: Sequence[str], new: int) -> dict[str, Any]:
  """Asks all questions at once, for answers of at most `new` tokens.

  Returns:
    `seconds`, `tokens` sampled, `prompt` tokens, `full`, the share of answers
    with as many tokens as they may have, and `texts`, the answers.
  """
  import openai  # in an extra
  with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0,
                     timeout=_ASKED) as client, (
      concurrent.futures.ThreadPoolExecutor(len(texts))) as pool:
    began = time.perf_counter()
    replies = list(pool.map(lambda text: client.chat.completions.create(
        model=server.model, messages=[{"role": "user", "content": text}],
        temperature=0, max_tokens=new), texts))
    seconds = time.perf_counter() - began
  counts = [reply.usage.completion_tokens for reply in replies]
  return {"seconds": seconds, "tokens": sum(counts),
          "prompt": sum(reply.usage.prompt_tokens for reply in replies),
          "full": float(np.mean([n == new for n in counts])),
          # Spaces at the ends are dropped by one server only.
          "texts": [reply.choices[0].message.content.strip()
                    for reply in replies]}


def measure(servers: dict[str, Server], level: int, turn: int, pairs: int,
            new: int) -> dict[str, Any]:
  """Measures all servers at one level, in turn.

  Args:
    servers: by name; ours is among them.
    level: clients at once.
    turn: number of the first list of questions.
    pairs: measurements of each, after one that does not count.
    new: the most new tokens of an answer.

  Returns:
    By server `tokens_per_s` and `tokens_per_cpu_s` of each measurement, `full`
    and `prompt` as in `ask`, and `same`, the share of its answers that are
    ours.
  """
  found: dict[str, Any] = {name: {"tokens_per_s": [], "tokens_per_cpu_s": []}
                           for name in servers}
  for number in range(pairs + 1):
    texts, answers = questions(level, turn + number), {}
    for name, server in servers.items():
      began = cpu_seconds(server.process)
      with server.turn():
        got = ask(server, texts, new)
      used = cpu_seconds(server.process) - began
      answers[name] = got["texts"]
      print(f"{level} at once, {name}: {got['tokens']} tokens in"
            f" {got['seconds']:.1f} s, {used:.1f} s of CPU", file=sys.stderr,
            flush=True)
      if number:
        found[name]["tokens_per_s"].append(got["tokens"] / got["seconds"])
        found[name]["tokens_per_cpu_s"].append(got["tokens"] / max(used, 0.01))
      found[name] |= {key: got[key] for key in ("full", "prompt")} | {
          "same": float(np.mean([a == b for a, b in zip(
              answers[_OURS], answers[name], strict=True)]))}
  return found


def main() -> None:
  check(bool(MODEL.value), "give --model=DIR")
  unknown = sorted(set(AGAINST.value) - {"plain", "continuous"})
  check(not unknown, f"--against={','.join(unknown)}: plain, continuous")
  levels = [int(level) for level in LEVELS.value]
  found = {}
  with contextlib.ExitStack() as stack:
    servers = {name: stack.enter_context(served(name))
               for name in (_OURS, *AGAINST.value)}
    for number, level in enumerate(levels):
      found[level] = measure(
          servers, level, number * (PAIRS.value + 1), PAIRS.value, NEW.value)
  if JSON.value:
    print(json.dumps(found), flush=True)
    return
  rows = []
  for level, by_name in found.items():
    ours = float(np.median(by_name[_OURS]["tokens_per_s"]))
    for name, got in by_name.items():
      speed = float(np.median(got["tokens_per_s"]))
      used = float(np.median(got["tokens_per_cpu_s"]))
      rows.append([str(level), name, f"{speed:.1f}", f"{ours / speed:.2f}",
                   f"{used:.1f}", f"{got['full']:.2f}", f"{got['same']:.2f}"])
  print(tables.render(
      ["at once", "server", "tokens/s", "r1jax is", "tokens/CPU s", "full",
       "same text"], rows))


if __name__ == "__main__":
  start.run(main)
