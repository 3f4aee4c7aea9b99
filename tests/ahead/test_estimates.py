"""What is estimated without a compiler, beside what one says."""

import dataclasses

import jax
import pytest

from r1jax.accounting import chips, compiled
from r1jax.ahead import aot, estimates, fitting
from r1jax.ahead.aot_config import AheadConfig
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.sharding.mesh import MeshConfig, make_mesh

# Share of an update's total memory that the estimate may lack, or have in
# excess, of what XLA's CPU compiler says.
NEAR = 0.25


def test_an_update_is_near_what_the_compiler_says():
  """A model whose parameters, like those of real ones, outweigh a row."""
  cfg = AheadConfig(rows=2, micro_rows=1, length=64, prompt=16)
  sizes = dataclasses.replace(
      presets.TINY_DENSE, vocab_size=2048, d_model=128, n_heads=8,
      n_kv_heads=4, head_dim=16, d_ff=512, n_layers=8)
  model = build(sizes, Compute(remat="full", unroll=1))
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  programs = aot.programs(model, cfg, mesh)
  transient = estimates.transient(model, cfg, mesh, programs)
  for name in ("accumulate", "apply"):
    program = programs[name]
    m = compiled.measure(name, program.lower, program.arguments, None,
                         tpu=False)
    said = m.total_bytes + sum(program.resident.values())
    counted = sum(program.held.device.values()) + sum(
        transient[name].values())
    assert counted == pytest.approx(said, rel=NEAR)
    # Without what comes and goes it would be far off.
    if name == "accumulate":
      assert sum(program.held.device.values()) < (1 - NEAR / 2) * said
  table = fitting.estimate(
      [(programs[n], transient[n]) for n in programs], chips.of("H200"))
  assert "gradient of a micro-batch" in table and "an estimate" in table


def test_a_long_prompt_has_the_activations_of_a_part():
  """And its layers' parameters are not stacked for a scan."""
  model = build(dataclasses.replace(presets.TINY_DENSE, max_position=2**16))
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])

  def prefill(prompt):
    cfg = AheadConfig(rows=1, micro_rows=1, length=2 * prompt, prompt=prompt)
    return estimates.transient(
        model, cfg, mesh, aot.programs(model, cfg, mesh))["prefill"]

  short, part, long = map(prefill, (1024, 4096, 16_384))
  name = "a layer's activations"
  assert part[name] == pytest.approx(4 * short[name], rel=0.1)
  assert long[name] == pytest.approx(part[name], rel=0.1)
  assert "the layers' parameters, stacked" in part
  assert "the layers' parameters, stacked" not in long
  assert long["the prompts' cache"] == 16 * short["the prompts' cache"]
