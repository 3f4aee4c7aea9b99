"""Several processes of one cluster on this machine, for tests."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
TIMEOUT = 600


def xla_flags(devices=None):
  """XLA_FLAGS as here, for so many devices; None: one, as on a laptop."""
  flags = [flag for flag in os.environ["XLA_FLAGS"].split()
           if "device_count" not in flag]
  if devices is not None:
    flags.append(f"--xla_force_host_platform_device_count={devices}")
  return " ".join(flags)


def start(count, devices, *command, **environment):
  """Processes of `python COMMAND...`, as launch/local.sh starts them."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  shared = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
  shared |= {
      "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address,
      "JAX_NUM_PROCESSES": str(count), "PJRT_NPROC": "64",
      "XLA_FLAGS": xla_flags(devices)}
  return [subprocess.Popen(
      [sys.executable, *map(str, command)], cwd=ROOT, text=True,
      env=shared | {"JAX_PROCESS_ID": str(i)} | environment,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(count)]


def finish(processes):
  """(status, stdout, stderr) of each; kills what is left after a while."""
  try:
    outs = [process.communicate(timeout=TIMEOUT) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [(process.returncode, *out)
          for process, out in zip(processes, outs, strict=True)]


def results(processes):
  """What each printed after RESULT; all must have succeeded."""
  found = []
  for status, out, err in finish(processes):
    assert status == 0, err
    found += [line.removeprefix("RESULT ") for line in out.splitlines()
              if line.startswith("RESULT ")]
  return found
