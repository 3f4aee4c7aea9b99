"""Memory, compute rate and bandwidths of accelerators, as vendors state them.
"""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
  """One JAX device.

  Attributes:
    memory: bytes that a program can use; for TPUs, the limit that their
      compiler enforces.
    flops: peak bfloat16 FLOP/s of the matrix units.
    bandwidth: bytes/s between memory and compute units.
    network: bytes/s to other chips in one direction, over all links.
  """

  memory: float
  flops: float
  bandwidth: float
  network: float


_GIB = 2.0**30

# Keys are substrings of `device.device_kind`, the more specific ones first.
CHIPS = {
    "TPU v5 lite": Chip(15.75 * _GIB, 197e12, 819e9, 200e9),  # v5e
    "TPU v5": Chip(95.73 * _GIB, 459e12, 2765e9, 600e9),  # v5p
    "TPU v6 lite": Chip(31.24 * _GIB, 918e12, 1640e9, 448e9),  # v6e
    "TPU v4": Chip(15.25 * _GIB, 137.5e12, 614e9, 150e9),  # one of two cores
    "H200": Chip(141e9, 989e12, 4800e9, 450e9),
    # An H100 with slower links: 400 GB/s, both directions added.
    "H800": Chip(80e9, 989e12, 3350e9, 200e9),
    "H100": Chip(80e9, 989e12, 3350e9, 450e9),
    "A100": Chip(80e9, 312e12, 2039e9, 300e9),
}


def of(device_kind: str) -> Chip | None:
  """The entry for a `device.device_kind`; None if it is not listed."""
  return next(
      (chip for kind, chip in CHIPS.items() if kind in device_kind), None)
