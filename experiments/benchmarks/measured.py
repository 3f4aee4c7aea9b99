"""Time and memory of an experiment that runs as a process of its own."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Sequence

from r1jax.core.config import check


def run(words: Sequence[str]) -> dict[str, float]:
  """Runs a command; returns its "seconds" and peak memory "peak_mb" in MiB.

  Linux only: elsewhere the memory is 0.

  Raises:
    ValueError: it failed; its own output says why.
  """
  print(*words, file=sys.stderr, flush=True)
  began, most = time.perf_counter(), 0
  # A wait's ru_maxrss would begin with the memory of this process.
  with subprocess.Popen(words, stdout=sys.stderr) as process:
    while process.poll() is None:
      most = max(most, _resident(process.pid))
      time.sleep(0.02)
  check(process.returncode == 0,
        f"{' '.join(words)} ended with status {process.returncode}")
  return {"peak_mb": most / 2**20, "seconds": time.perf_counter() - began}


def _resident(process: int) -> int:
  """The largest resident memory of a process so far, in bytes."""
  try:
    status = pathlib.Path(f"/proc/{process}/status").read_text()
  except OSError:
    return 0
  found = re.search(r"VmHWM:\s+(\d+)", status)
  return int(found[1]) * 1024 if found else 0
