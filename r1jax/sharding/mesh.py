"""The device mesh: data, fsdp, expert, sequence, tensor."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh

from r1jax.sharding import rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Sizes of the mesh axes; one of them may be -1: all remaining devices."""

  # Replicas of the parameters; splits rows. -1: all devices that the other axes
  # leave; for -1 on another axis give --mesh.data=1.
  data: int = -1
  fsdp: int = 1  # splits rows and the widths of parameters
  expert: int = 1  # splits rows and routed experts
  sequence: int = 1  # splits the tokens of a row; for rows of 32K and more
  tensor: int = 1  # splits heads, feed-forward widths and vocabulary

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

  def shape(self, n_devices: int) -> tuple[int, ...]:
    """Sizes in the order of `rules.AXES`, their product being `n_devices`.

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
  """Mesh with the axes of `rules.AXES`, all of type Auto.

  Args:
    config: axis sizes; None puts every device on `data`.
    devices: defaults to all devices of all processes.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = (config or MeshConfig()).shape(len(devices))
  # jax.make_mesh makes Explicit axes unless told otherwise (JAX 0.10).
  types = (AxisType.Auto,) * len(shape)
  try:
    return jax.make_mesh(shape, rules.AXES, axis_types=types, devices=devices)
  except NotImplementedError:
    # The sizes are no products of the torus's dimensions: let a mesh axis use
    # a part of one.
    return Mesh(
        mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True),
        rules.AXES, axis_types=types)


def devices_of(topology: str) -> Sequence[jax.Device]:
  """Devices to compile for; this machine need not have them.

  Args:
    topology: of a TPU slice, such as `v5p:4x4x4` or `v5e:4x4` (needs libtpu,
      but no TPU); or `cpu` or `gpu`, the devices of this machine.

  Raises:
    ValueError: the topology or backend does not exist, or libtpu is missing.
  """
  if topology in ("cpu", "gpu"):
    try:
      return jax.devices(topology)
    except RuntimeError as error:
      raise ValueError(
          f"topology={topology!r}: this machine has none ({error})") from error
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(f"topology={topology!r} needs libtpu, XLA's compiler for"
                     " TPUs: pip install -e '.[aot]'")
  # Else libtpu would query a TPU's metadata server, complain that there is
  # none, and lock out other processes. Any values do: the topology is given.
  for name, value in (("TPU_SKIP_MDS_QUERY", "1"),
                      ("TPU_ACCELERATOR_TYPE", "v5litepod-16"),
                      ("TPU_WORKER_HOSTNAMES", "localhost"),
                      ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")):
    os.environ.setdefault(name, value)
  try:
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology).devices
  except Exception as error:  # libtpu raises many kinds
    raise ValueError(
        f"topology={topology!r} is not one that libtpu knows; give cpu, gpu or"
        " a TPU's, such as v5e:4x4, v5p:4x4x4 or v6e:8x8"
        f" ({str(error).splitlines()[0]})") from error


def backend() -> str:
  """Platform that the code being traced will run on: cpu, gpu or tpu.

  That of the current mesh (`jax.set_mesh`), whose devices this machine may not
  have (ahead-of-time compilation); without a mesh, the default backend.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


class Place(NamedTuple):
  """Backend, mesh and layout of a forward pass.

  A model asks for it once, when it begins to trace a pass, because the mesh and
  a surrounding pmap are not known earlier. It passes it on to its layers and
  operations.

  Attributes:
    backend: `cpu`, `gpu` or `tpu`.
    sizes: (name, size) of the current mesh's axes; empty without a mesh.
    taken: the axes that a surrounding pmap or `jax.shard_map` handles (manual
      axes).
    layout: how a mesh splits arrays, `train` or `decode`, see `rules`.
    paged: whether the KV cache may be laid out in pages, see `ops.paged`.
  """

  backend: str
  sizes: tuple[tuple[str, int], ...] = ()
  taken: frozenset[str] = frozenset()
  layout: str = "train"
  paged: bool = True

  @classmethod
  def here(cls, layout: str = "train", paged: bool = True) -> Place:
    """The place of the code that is being traced."""
    mesh = jax.sharding.get_abstract_mesh()
    return cls(backend(), tuple(mesh.shape.items()),
               frozenset(mesh.manual_axes), layout, paged)

  @property
  def axes(self) -> Mapping[str, int]:
    """Sizes of the free axes, those that the compiler may split over."""
    return {a: n for a, n in self.sizes if a not in self.taken}

  @property
  def flat(self) -> bool:
    """Whether products flatten rows and positions into one dimension.

    That is faster on a CPU and gains nothing elsewhere. It is impossible
    without communication where rows and positions are split over different
    mesh axes.
    """
    return self.backend == "cpu" and self.axes.get("sequence", 1) == 1


def mesh_or_none(config: MeshConfig | None = None) -> Mesh | None:
  """`make_mesh` of all devices; None if there is only one device."""
  return make_mesh(config) if jax.device_count() > 1 else None
