"""The device mesh: data, fsdp, expert, tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from r1jax.sharding import rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Sizes of the mesh axes; one of them may be -1: what the others leave."""

  data: int = -1  # replicas of the parameters, each with its own rows
  fsdp: int = 1  # rows and parameter widths split together
  expert: int = 1  # rows and routed experts split together
  tensor: int = 1  # heads, feed-forward widths and vocabulary split

  def __post_init__(self):
    sizes = dataclasses.asdict(self)
    for name, size in sizes.items():
      if size < 1 and size != -1:
        raise ValueError(f"mesh axis {name}={size}: give 1 or more, or -1")
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
      raise ValueError(
          f"mesh axes {' and '.join(free)} are both -1; only one can be filled"
          " from the device count")

  def shape(self, n_devices: int) -> tuple[int, int, int, int]:
    """(data, fsdp, expert, tensor), their product being `n_devices`.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    sizes = [getattr(self, name) for name in rules.AXES]
    given = math.prod(size for size in sizes if size != -1)
    if n_devices % given or (-1 not in sizes and given != n_devices):
      named = ", ".join(f"{n}={s}" for n, s in zip(rules.AXES, sizes))
      raise ValueError(
          f"mesh {named} needs {'a multiple of ' * (-1 in sizes)}{given}"
          f" devices; there are {n_devices}")
    return tuple(n_devices // given if s == -1 else s for s in sizes)


def make_mesh(
    config: MeshConfig | None = None,
    devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Mesh with axes (data, fsdp, expert, tensor), the compiler placing data.

  Args:
    config: axis sizes; None puts every device on `data`.
    devices: defaults to all devices of all processes.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = (config or MeshConfig()).shape(len(devices))
  # jax.make_mesh makes Explicit axes unless told otherwise (JAX 0.10).
  return jax.make_mesh(
      shape, rules.AXES, axis_types=(AxisType.Auto,) * len(shape),
      devices=devices)
