import jax
import pytest
from jax.sharding import PartitionSpec

from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import state
from r1jax.training.optimizer import OptimizerConfig, make_optimizer
from tests.training import cases


def test_moments_lie_where_their_parameters_lie():
  optimizer = make_optimizer(OptimizerConfig(lr=0.1))
  mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
  places = state.shardings(cases.model(), optimizer, mesh)
  start = cases.make_state(optimizer=optimizer)
  assert jax.tree.structure(places) == jax.tree.structure(start)
  wanted = [p.spec for p in jax.tree.leaves(places.params)]
  assert any(spec != PartitionSpec() for spec in wanted)
  specs = [p.spec for p in jax.tree.leaves(places.opt_state)]
  n = len(wanted)
  moments = [spec for spec in specs if spec != PartitionSpec()]
  assert moments == 2 * [spec for spec in wanted if spec != PartitionSpec()]
  assert len(specs) > 2 * n  # and the counts, replicated
  placed = jax.device_put(start, places)
  assert placed.params["embed"].sharding.spec == places.params["embed"].spec


@pytest.mark.parametrize("zero1", [False, True])
def test_parts_that_are_held_have_no_moments(zero1):
  optimizer = make_optimizer(OptimizerConfig(lr=0.1))
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, expert=2))
  places = state.shardings(
      cases.model(), optimizer, mesh, zero1=zero1, held=("mtp",))
  start = cases.make_state(optimizer=optimizer, held=("mtp",))
  assert jax.tree.structure(places) == jax.tree.structure(start)
  placed = jax.device_put(start, places)
  mtp = len(jax.tree.leaves(start.params["mtp"]))
  trained = len(jax.tree.leaves(start.params)) - mtp
  moments = [x for x in jax.tree.leaves(placed.opt_state) if x.ndim]
  assert mtp and len(moments) == 2 * trained
  specs = {str(x.sharding.spec) for x in moments}
  assert any("fsdp" in spec for spec in specs)
  assert any("data" in spec for spec in specs) == zero1
