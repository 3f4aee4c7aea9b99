"""When a process looks for others, and two processes that find each other."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from r1jax.sharding import distributed
from r1jax.sharding.distributed import DistributedConfig
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("environ,tpu_host,found", [
    ({}, False, None),
    ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[1-4]"}, False,
     "SLURM_NTASKS"),
    # A shell inside an allocation, not a step of it.
    ({"SLURM_NTASKS": "4"}, False, None),
    ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, False, None),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://a"},
     False, "OMPI_COMM_WORLD_SIZE"),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, False, "TPU_WORKER_HOSTNAMES"),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False, None),
    ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, False,
     "MEGASCALE_COORDINATOR_ADDRESS"),
    ({}, True, "TPU VM"),
    ({"JAX_PLATFORMS": "cpu"}, True, None),
    ({"TPU_SKIP_MDS_QUERY": "1"}, True, None),
])
def test_detect(environ, tpu_host, found):
  assert distributed.detect(environ, tpu_host) == found


@pytest.mark.parametrize("fields,message", [
    (dict(coordinator="a:1"), "give all three or none"),
    (dict(processes=2, process=0), "give all three or none"),
    (dict(coordinator="a:1", processes=2, process=2), "not below processes=2"),
])
def test_half_a_configuration_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    DistributedConfig(**fields)


CHILD = """
import sys
import jax, numpy as np
from r1jax.sharding import distributed, mesh, rules
config = {}
if len(sys.argv) > 1:
  config = dict(
      coordinator=sys.argv[1], processes=2, process=int(sys.argv[2]))
started = distributed.initialize(distributed.DistributedConfig(**config))
assert started == distributed.initialize()
devices = mesh.make_mesh()
rows = np.arange(8.0)
split = jax.make_array_from_callback(
    rows.shape, rules.batch_sharding(devices), lambda i: rows[i])
total = jax.jit(lambda x: (x ** 2).sum())(split)
print("RESULT", started, jax.process_count(), devices.size, float(total))
"""


def start(*args):
  environ = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
  environ |= {
      "XLA_FLAGS": processes.xla_flags(devices=2),
      "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(
      [sys.executable, "-c", CHILD, *args], cwd=ROOT, env=environ, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(*processes):
  try:
    outs = [process.communicate(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
  results = []
  for process, (out, err) in zip(processes, outs):
    assert process.returncode == 0, err
    results += [li for li in out.splitlines() if li.startswith("RESULT")]
  return results


def test_a_process_started_alone_stays_alone():
  assert finish(start()) == ["RESULT False 1 2 140.0"]


def test_two_processes_make_one_mesh():
  with socket.socket() as sock:
    sock.bind(("localhost", 0))
    address = f"localhost:{sock.getsockname()[1]}"
  got = finish(start(address, "0"), start(address, "1"))
  assert got == ["RESULT True 2 4 140.0"] * 2
