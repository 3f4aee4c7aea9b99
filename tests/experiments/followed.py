"""Runs the commands of the README and the pages as they stand there.

  python -m tests.experiments.followed [PAGE ...]

A page's shell blocks are run from top to bottom in one folder, a copy of the
repository beside what a reader brings (`named`). Flags that make a command
small are appended: of two flags of a name the later one counts. What cannot
run here is left out, and why is said (SKIPPED). The end is a table of command,
seconds and verdict; the status is 0 if all that was run succeeded.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import NamedTuple

from r1jax.report import tables
from tests import chat_server, processes
from tests.experiments import named
from tests.experiments.calls import ROOT, Call, calls

FAILED = "FAILED"
BLOCK = re.compile(r"(?ms)^```(bash|python)\n(.*?)^```")
EXPERIMENT = re.compile(r"^python -m (experiments[\w.]*)(.*)$")
SKIPPED = {
    "launch/test.sh": "the tests themselves",
    "sbatch ": "needs SLURM", "kubectl ": "needs a cluster",
    "launch/tpu_pod.sh": "needs a TPU", "gs://": "needs a TPU and a bucket",
    "pip install": "installs packages", "mkdocs serve": "waits for a browser",
    "experiments.harness": "downloads its tasks",
    "--preset=r1-671b": "needs tens of minutes to compile"}
LENGTHS = ["--max_new_tokens=8", "--rewards.workers=1"]
TRAINED = ["--steps=1", "--questions=2", "--samples=2", "--minibatches=1",
           "--micro_rows=4",
           "--row_length=200", *LENGTHS, "--save_every=1", "--eval_every=0",
           "--eval_split=test[:2]", "--eval.samples=2", "--eval.max_rows=2",
           "--eval.max_new_tokens=8"]
ASKED = ["--samples=2", "--max_rows=8", *LENGTHS]
TUNED = ["--steps=1", "--rows=2", "--row_length=128"]
# Experiment -> what makes it small.
SMALL = {
    "cold_start": [*ASKED, *named.LOOSE, "--max_new_tokens=24",
                   "--data=my_prompts.py", "--template=chat-think",
                   "--rewriter=my_prompts.py:rewrite"],
    "compile_ahead": ["--layers=2", "--program=decode"],
    "distill": [*TRAINED, "--data=my_prompts.py"],
    "evaluate": ASKED,
    "evaluate_reward": ["--rows=2"],
    "evaluate_safety": ["--questions=2", "--batch=4", "--max_new_tokens=8"],
    "label_pairs": ["--samples=2", "--max_new_tokens=24", "--batch=4",
                    "--split=train", "--nobalance", "--template=chat",
                    "--judge=my_prompts.py"],
    "quickstart": ["--steps=1"],
    "r1": ["--plan=experiments/plans/tiny.toml", "--until=zero",
           "--workdir=runs/tiny"],
    "rejection": [*ASKED, *named.LOOSE, "--max_new_tokens=24",
                  "--data=my_prompts.py", "--judge=my_prompts.py:judge"],
    "sample": ["--question=What is 3 + 2?", "--max_new_tokens=8"],
    "scaling": ["--samples=2", "--max_rows=8", "--data=math",
                "--data_dir=DATA", "--answer_tokens=4", "--rewards.workers=1"],
    "train_grpo": TRAINED,
    "train_reward": [*TUNED, "--rows=8", "--validation=0.3"],
    "train_sft": [*TUNED, "--eval_every=0"]}
# Words of a command -> further flags, in this order; {url} answers chats.
FURTHER = {
    "--minibatches=4": ["--minibatches=4"],
    "--stage_steps=40": ["--stage_steps=1", "--steps=2",
                         "--max_new_tokens=4,8"],
    "--suite=paper": ["--judge.max_new_tokens=8"],
    "--judge=hf:GUARD": ["--judge.max_new_tokens=8"],
    "--split=hard": ["--split=hard[:2]"],
    "--init=https://HOST/v1": ["--init={url}"],
    "--judge=https://HOST/v1": ["--judge={url}"],
    "--preset=paper": ["--plan=", "--until="],
    "--plan=PLAN.toml": ["--plan=PLAN.toml", "--workdir=runs/mine"],
    "--until=dev1": ["--until=dev1"],
    "--mesh.": ["--micro_rows=4"],
    "--loss=dapo": ["--eval_every=1"],  # whose best checkpoint is read
    "force_host_platform_device_count=8": ["--micro_rows=8"]}


class Result(NamedTuple):
  """One command of a page."""

  page: str
  line: str
  seconds: float
  verdict: str
  out: str = ""


def blocks(text: str) -> Iterator[list[str]]:
  """The commands of every shell block, without remarks, in order."""
  for kind, block in BLOCK.findall(text):
    if kind == "bash":
      lines = (" ".join(f" {line}".partition(" #")[0].split())
               for line in block.replace("\\\n", " ").splitlines())
      yield [line for line in lines if line]


def skipped(line: str) -> str:
  """Why a command is not run here; "" if it is."""
  if "functions:1" in line and not shutil.which("bwrap"):
    return "needs bubblewrap"
  return next((why for words, why in SKIPPED.items() if words in line), "")


def small(line: str, url: str) -> str:
  """The command with flags that make it small."""
  found = re.search(r"python -m experiments\.(\w+)", line)
  name = found[1] if found else (
      "quickstart" if "launch/quickstart.sh" in line else "")
  if "--suite=" in line and name == "evaluate":
    flags = [*LENGTHS, "--samples=1", "--max_rows=16"]
  else:
    flags = list(SMALL.get(name, ()))
  for words, more in FURTHER.items():
    if words in line and name != "compile_ahead":  # nothing of it is trained
      flags += [flag.format(url=url) for flag in more]
  return " ".join([line, *map(shlex.quote, flags)])


@contextlib.contextmanager
def reader(text: str) -> Iterator[tuple[pathlib.Path, str]]:
  """(a folder with the repository and what a page names, a chat's URL)."""
  def say(number, body):
    asked = "Judge an assistant's reply" in chat_server.question(body)
    return '{"reason": "so", "label": "rejected"}' if asked else "42"

  with (tempfile.TemporaryDirectory() as top,
        chat_server.serving() as serve):
    folder = pathlib.Path(top)
    named.clone(folder)
    named.bring(folder, text)
    yield folder, serve(say).url


def environment(line: str, folder: pathlib.Path) -> dict[str, str]:
  """Of one device, and of the python that runs this."""
  path = [os.path.dirname(sys.executable), os.environ["PATH"]]
  # libtpu ends the process at flags of the CPU's that it does not know.
  flags = [flag for flag in processes.xla_flags().split()
           if not ("--topology=v" in line and "xla_cpu" in flag)]
  return {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"} | {
      "R1JAX_VENV": "none", "XLA_FLAGS": " ".join(flags),
      "PATH": os.pathsep.join(path)} | named.places(folder)


def by_bash(line: str, folder: pathlib.Path) -> Call:
  """In a process of its own, as typed."""
  done = subprocess.run(
      ["bash", "-c", line], cwd=folder, env=environment(line, folder),
      text=True, capture_output=True, stdin=subprocess.DEVNULL)
  return Call(done.returncode, done.stdout, done.stderr)


def by_fork(line: str, folder: pathlib.Path) -> Call:
  """An experiment in a fork of a process that has imported what is slow."""
  module, words = EXPERIMENT.match(line).groups()
  call, = calls(module, shlex.split(words), cwd=folder,
                **named.places(folder))
  return call


def served(line: str, program: str, folder: pathlib.Path) -> Call:
  """A server with the client of its page, then Ctrl-C."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  line, program = (text.replace("8000", port) for text in (line, program))
  server = subprocess.Popen(
      shlex.split(line), cwd=folder, env=environment(line, folder), text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  try:
    while server.poll() is None:
      with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
        break
      time.sleep(0.2)
    client = subprocess.run(
        [sys.executable, "-c", program], text=True, capture_output=True)
  finally:
    server.terminate()
    out, _ = server.communicate()
  return Call(client.returncode, out + client.stdout, client.stderr)


def follow(page: pathlib.Path, run=by_bash, until="") -> Iterator[Result]:
  """The commands of a page, or of what stands before `until`, as they end."""
  text = page.read_text()
  text = text.partition(until)[0] if until else text
  programs = [block for kind, block in BLOCK.findall(text) if kind == "python"]
  with reader(text) as (folder, url):
    def ran(line):
      line = small(line, url)
      if "experiments.serve" in line:
        return served(line, "\n".join(programs), folder)
      return run(line, folder)

    yield from results(str(page.relative_to(ROOT)), text, ran)


def results(page: str, text: str, run: Callable[[str], Call]
            ) -> Iterator[Result]:
  """What comes of each command, in order; a failure does not stop them."""
  for line in (line for block in blocks(text) for line in block):
    began = time.monotonic()
    if why := skipped(line):
      yield Result(page, line, 0.0, why)
      continue
    done = run(line)
    failed = done.status != 0 or "Traceback" in done.err
    yield Result(page, line, time.monotonic() - began,
                 FAILED if failed else "ok", done.out + done.err)


def pages() -> list[pathlib.Path]:
  """All that have commands for a reader."""
  return [ROOT / "README.md", ROOT / "docs/recipes.md",
          *sorted((ROOT / "docs/tutorials").glob("*.md"))]


def main(paths: list[pathlib.Path]) -> int:
  found = []
  for path in paths:
    for result in follow(path):
      found.append(result)
      print(f"{result.verdict:8} {result.seconds:5.0f} s  {result.line}",
            flush=True)
      if result.verdict == FAILED:
        print(result.out[-3000:], flush=True)
  print(tables.render(
      ["page", "seconds", "verdict", "command"],
      [[r.page, f"{r.seconds:.0f}", r.verdict, r.line] for r in found]))
  return int(any(r.verdict == FAILED for r in found))


if __name__ == "__main__":
  importlib.import_module("tests.conftest")  # settings that children inherit
  sys.exit(main([pathlib.Path(name).resolve() for name in sys.argv[1:]]
                or pages()))
