"""A stage without JAX, for tests of the pipeline.

  python -m tests.plans.planned --workdir=DIR [--text=TEXT] [--status=N]
      [--waits=true] [--made=NAME]

Adds a line to WORKDIR/out.txt at every start. With --waits it then waits for a
signal, writes its name and ends as an experiment that has saved; at its next
start it is done.
"""

import os
import pathlib
import signal
import sys

# The beginning of a plan of such stages.
TWO = """
[stages.one]
run = "tests.plans.planned"
flags = {text = "{seed}"}

[stages.two]
run = "tests.plans.planned"
flags = {text = "{one}/out.txt"}
"""
COMPLETE = "R1JAX_COMPLETE"  # of `plans.pipeline`, whose import takes longer


def main(arguments):
  flags = dict(word.removeprefix("--").split("=", 1) for word in arguments)
  folder = pathlib.Path(flags["workdir"])
  folder.mkdir(parents=True, exist_ok=True)
  out = folder / "out.txt"
  again = out.exists()
  with out.open("a") as file:
    file.write(flags.get("text", "") + "\n")
  if flags.get("waits") == "true" and not again:
    got = signal.sigwait([signal.SIGINT, signal.SIGTERM])
    (folder / "signal.txt").write_text(signal.Signals(got).name)
    sys.exit(75)
  if status := int(flags.get("status", 0)):
    print("what is amiss", file=sys.stderr)
    sys.exit(status)
  if (mark := os.environ.get(COMPLETE)) and flags.get("marks") != "false":
    pathlib.Path(mark).touch()


if __name__ == "__main__":
  # Before out.txt is there, so that the signal which follows it cannot be lost.
  signal.pthread_sigmask(
      signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
  main(sys.argv[1:])
