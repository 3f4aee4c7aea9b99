"""Whether programs fit, what is said where they do not, what a sweep tries."""

import dataclasses

from r1jax.accounting import chips, compiled
from r1jax.ahead import aot, fitting
from r1jax.ahead.aot_config import AheadConfig
from r1jax.ahead.resident import Held
from r1jax.models import presets
from r1jax.models.compute import Compute

GIB = 2**30


def measured(**changes):
  fields = dict(name="accumulate", arguments={}, temporary_bytes=90 * GIB)
  return compiled.Measured(**fields | changes)


def hints(m, remat="full", resident=0, **changes):
  program = aot.Program("accumulate", None, {}, Held(
      {"reference": resident}, {}))
  return "\n".join(fitting.hints(
      program, m, chips.of("TPU v5"), Compute(remat=remat),
      dataclasses.replace(AheadConfig(), **changes)))


def test_what_to_change_is_said_where_it_does_not_fit():
  assert hints(measured()) == ""
  too_much = hints(measured(), resident=10 * GIB)
  assert too_much.startswith("4.3 GiB too much.")
  assert "--offload=reference keeps" in too_much
  assert "--micro_rows=256" in too_much and "remat" not in too_much
  assert "remat=full" in hints(measured(), "dots", resident=10 * GIB)
  refused = measured(error="RESOURCE_EXHAUSTED: ran out", temporary_bytes=0,
                     needed_bytes=100.0 * GIB)
  assert "RESOURCE_EXHAUSTED: ran out" in hints(refused)
  assert refused.total_bytes == 100 * GIB


def test_meshes_that_are_tried():
  cfg = AheadConfig(rows=512)
  model = presets.get("r1-671b")
  found = [shape for shape, remat in fitting.candidates(model, cfg, 512)
           if remat == "full"]
  assert len(set(found)) == len(found) > 10
  for mesh in found:
    total = mesh.fsdp * mesh.expert * mesh.sequence * mesh.tensor
    assert total == 512 and model.n_experts % mesh.expert == 0
    assert cfg.rows % (mesh.fsdp * mesh.expert) == 0
  assert found[0].tensor == found[0].sequence == 1
