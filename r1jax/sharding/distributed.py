"""Multi-process start-up: the same script on one machine and on many."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import pathlib
from collections.abc import Mapping

import jax

# Number of processes, as launchers set it that jax.distributed knows itself.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_READY = {
    "SLURM_NTASKS": "SLURM_STEP_NODELIST",
    "OMPI_COMM_WORLD_SIZE": "OMPI_MCA_orte_hnp_uri",
}
_TPU_PODS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
# Set by launch/local.sh: address of the coordinator, number of processes, index
# of this one. jax.distributed itself reads only the first.
LAUNCHED = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
  """Where the other processes are; by default the launcher says it."""

  coordinator: str = ""  # host:port of process 0; "" asks the launcher
  processes: int = 0  # number of processes; 0 asks the launcher
  process: int = -1  # index of this process, from 0; -1 asks the launcher
  # Seconds without a heartbeat after which a process counts as lost.
  heartbeat_timeout: int = 60
  # Seconds without progress of the slowest process until the run is ended.
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
    environ: the environment variables.
    tpu_host: whether this machine is a TPU VM.

  Returns:
    The name of the environment variable that shows the launcher, or "TPU VM".

  Raises:
    ValueError: the environment has some but not all of `LAUNCHED`, and no
      scheduler that could supply the rest.
  """
  if environ.get("JAX_PLATFORMS") == "cpu":
    tpu_host = False
  if all(name in environ for name in LAUNCHED):
    return LAUNCHED[0] if int(environ[LAUNCHED[1]]) > 1 else None
  for name in _COUNTS:
    # In a batch script, outside srun or mpirun, only the count is set.
    if int(environ.get(name) or 1) > 1 and _READY[name] in environ:
      return name
  for name in _TPU_PODS:
    if "," in environ.get(name, ""):
      return name
  if "MEGASCALE_COORDINATOR_ADDRESS" in environ:
    return "MEGASCALE_COORDINATOR_ADDRESS"
  # A TPU VM learns its pod from the metadata server, not its environment.
  if tpu_host and "TPU_SKIP_MDS_QUERY" not in environ:
    return "TPU VM"
  if present := [name for name in LAUNCHED if name in environ]:
    missing = [name for name in LAUNCHED if name not in environ]
    raise ValueError(
        f"{' and '.join(present)} set without {' and '.join(missing)}; set all"
        " three, or none to start alone")
  return None


def initialize(config: DistributedConfig | None = None) -> bool:
  """Connects to the other processes; call it before any other use of JAX.

  Does nothing if this process was started alone, or is connected already.

  Returns:
    Whether jax.distributed is running.

  Raises:
    ValueError: `detect` cannot tell who the other processes are.
  """
  if jax.distributed.is_initialized():
    return True
  config = config or DistributedConfig()
  launcher = None if config.coordinator else detect(os.environ, _is_tpu_host())
  # stages/loop/signals.py handles SIGTERM; JAX's own handler would swallow it
  # before training starts.
  jax.config.update("jax_enable_preemption_service", False)
  # Our `watchdog` should act first, since it names the lost process; JAX's
  # heartbeat is the fallback.
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
