"""Flags of dtypes, kernels, remat and the mesh."""

from __future__ import annotations

from r1jax.models.compute import Compute
from r1jax.sharding.mesh import MeshConfig

from . import flagset

COMPUTE = flagset.define(Compute, "compute")
MESH = flagset.define(MeshConfig, "mesh")
