"""Multi-process start-up: the same script on one machine and on many."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import pathlib
from collections.abc import Mapping

import jax

# Set for each process by a launcher that jax.distributed can read by itself.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_READY = {
    "SLURM_NTASKS": "SLURM_STEP_NODELIST",
    "OMPI_COMM_WORLD_SIZE": "OMPI_MCA_orte_hnp_uri",
}
_TPU_PODS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
# Set by launch/local.sh: coordinator, number of processes, number of this one.
# The first of them jax.distributed reads by itself.
LAUNCHED = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
  """Where the other processes are; all empty: ask the launcher, if any."""

  coordinator: str = ""  # host:port of process 0; "" asks the launcher
  processes: int = 0  # how many processes; 0 asks the launcher
  process: int = -1  # index of this process, from 0; -1 asks the launcher
  # Seconds without a heartbeat after which a process counts as lost.
  heartbeat_timeout: int = 60
  # Seconds without progress after which the run is ended.
  stall_timeout: int = 1800

  def __post_init__(self):
    for name in ("heartbeat_timeout", "stall_timeout"):
      if getattr(self, name) < 1:
        raise ValueError(
            f"{name}={getattr(self, name)}: give 1 second or more")
    given = (bool(self.coordinator), self.processes != 0, self.process != -1)
    if any(given) and not all(given):
      raise ValueError(
          f"coordinator={self.coordinator!r}, processes={self.processes},"
          f" process={self.process}: give all three or none")
    if all(given) and not 0 <= self.process < self.processes:
      raise ValueError(
          f"process={self.process} is not below processes={self.processes}")


def detect(environ: Mapping[str, str], tpu_host: bool) -> str | None:
  """The launcher that started this process as one of several, or None.

  Args:
    environ: the environment.
    tpu_host: whether this machine is a TPU VM.

  Raises:
    ValueError: the environment has some of `LAUNCHED`, not all, and no
      scheduler that could know the rest.
  """
  if environ.get("JAX_PLATFORMS") == "cpu":
    tpu_host = False
  if all(name in environ for name in LAUNCHED):
    return LAUNCHED[0] if int(environ[LAUNCHED[1]]) > 1 else None
  for name in _COUNTS:
    # A batch script run without its launcher has the count but not the rest.
    if int(environ.get(name) or 1) > 1 and _READY[name] in environ:
      return name
  for name in _TPU_PODS:
    if "," in environ.get(name, ""):
      return name
  if "MEGASCALE_COORDINATOR_ADDRESS" in environ:
    return "MEGASCALE_COORDINATOR_ADDRESS"
  # A TPU VM knows its pod from its metadata server, not its environment.
  if tpu_host and "TPU_SKIP_MDS_QUERY" not in environ:
    return "TPU VM"
  if present := [name for name in LAUNCHED if name in environ]:
    missing = [name for name in LAUNCHED if name not in environ]
    raise ValueError(
        f"{' and '.join(present)} set without {' and '.join(missing)}; set all"
        " three, or none to start alone")
  return None


def initialize(config: DistributedConfig | None = None) -> bool:
  """Joins the other processes; call before any other use of JAX.

  Does nothing when this process was started alone, or has joined already.

  Returns:
    Whether jax.distributed is running.

  Raises:
    ValueError: `detect` cannot tell who the others are.
  """
  if jax.distributed.is_initialized():
    return True
  config = config or DistributedConfig()
  launcher = None if config.coordinator else detect(os.environ, _is_tpu_host())
  # SIGTERM is asked about in stages/loop/signals.py; JAX's own handler would
  # also swallow it before training starts.
  jax.config.update("jax_enable_preemption_service", False)
  # Our `watchdog` comes first, with names; JAX's is for what is left.
  start = functools.partial(
      jax.distributed.initialize,
      heartbeat_timeout_seconds=2 * config.heartbeat_timeout + 10)
  if config.coordinator:
    start(config.coordinator, config.processes, config.process)
  elif launcher == LAUNCHED[0]:
    address, *numbers = (os.environ[name] for name in LAUNCHED)
    start(address, *map(int, numbers), cluster_detection_method="deactivate")
  elif launcher:
    start()
  else:
    return False
  return True


def _is_tpu_host() -> bool:
  dev = pathlib.Path("/dev")
  chips = [*dev.glob("accel[0-9]*"), *dev.glob("vfio/[0-9]*")]
  return bool(chips) and importlib.util.find_spec("libtpu") is not None
