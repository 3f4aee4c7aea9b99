import math

import jax
import numpy as np
import pytest

from r1jax.checkpoint import hf_names, trees
from r1jax.models import presets
from r1jax.models.model import build
from tests.checkpoint import hf_cases
from tests.models import cases

CONFIGS = {
    "v3": cases.V3, "v2": cases.V2, "qwen2": cases.DENSE,
    "qwen3": cases.QWEN3}


def leaves(cfg):
  model = build(cfg)
  return trees.flatten(jax.eval_shape(model.init, jax.random.key(0))) | {
      hf_names.ROUTER_BIAS: jax.eval_shape(model.init_router_bias)}


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_those_of_the_files(name):
  """And every leaf has one owner."""
  cfg = CONFIGS[name]
  found, shapes = {}, leaves(cfg)
  entries = [e for e in hf_names.table(cfg) if e.written]
  for entry in entries:
    for at in entry.places():
      assert entry.name(at) not in found
      found[entry.name(at)] = entry.shape(shapes[entry.path].shape)
  assert found == hf_cases.shapes(cfg)
  owned = [e.path for e in entries if not e.copy]
  assert len(owned) == len(set(owned))
  without = set() if cfg.n_experts and cfg.selection_bias else {
      hf_names.ROUTER_BIAS}
  assert set(owned) == set(shapes) - without


def test_the_whole_of_deepseek_v3():
  """Every name and shape of R1; without MTP they are its 671B parameters."""
  cfg, shapes = presets.R1_671B, leaves(presets.R1_671B)
  expected = hf_cases.shapes(cfg)
  found = {e.name(at): e.shape(shapes[e.path].shape)
           for e in hf_names.table(cfg) for at in e.places()}
  assert found == expected
  main = [math.prod(shape) for name, shape in expected.items()
          if not name.startswith("model.layers.61.")]
  assert sum(main) == 671_026_419_200  # the selection bias is counted
  assert "model.layers.61.mlp.experts.255.down_proj.weight" in found
  assert "model.layers.2.mlp.gate.weight" not in found


def test_fp8_takes_the_projections_of_blocks():
  table = hf_names.table(cases.V3)
  kept = {e.hf.rsplit("}.", 1)[-1] for e in table if not e.quantised}
  assert kept == {
      "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
      "input_layernorm.weight", "post_attention_layernorm.weight",
      "self_attn.q_a_layernorm.weight", "self_attn.kv_a_layernorm.weight",
      "mlp.gate.weight", "mlp.gate.e_score_correction_bias"} | {
          f"model.layers.3.{n}.weight" for n in (
              "embed_tokens", "enorm", "hnorm", "eh_proj", "shared_head.norm",
              "shared_head.head", "input_layernorm",
              "post_attention_layernorm", "self_attn.q_a_layernorm",
              "self_attn.kv_a_layernorm", "mlp.gate")}


# Each layout by its definition, element by element.
LEAF = {"vector": (5,), "matrix": (5, 7), "transpose": (5, 7),
        "split_heads": (5, 3, 4), "join_heads": (3, 4, 5),
        "split_bias": (3, 4)}


def by_definition(stored, layout):
  leaf = np.empty(LEAF[layout])
  for at in np.ndindex(leaf.shape):
    leaf[at] = {
        "vector": lambda i: stored[i],
        "matrix": lambda i, j: stored[i, j],
        "transpose": lambda i, j: stored[j, i],
        "split_heads": lambda i, n, h: stored[n * 4 + h, i],
        "join_heads": lambda n, h, i: stored[i, n * 4 + h],
        "split_bias": lambda n, h: stored[n * 4 + h],
    }[layout](*at)
  return leaf


@pytest.mark.parametrize("layout", hf_names.LAYOUTS)
def test_layouts(layout):
  leaf = LEAF[layout]
  shape = hf_names.Entry("x", "x", layout).shape(leaf)
  stored = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
  expected = by_definition(stored, layout)
  np.testing.assert_array_equal(
      hf_names.to_leaf(stored, layout, leaf), expected)
  np.testing.assert_array_equal(
      hf_names.to_stored(expected, layout), stored)


@pytest.mark.parametrize("layout", hf_names.LAYOUTS)
def test_parts_of_a_leaf_read_no_more_than_they_need(layout):
  leaf = LEAF[layout]
  shape = hf_names.Entry("x", "x", layout).shape(leaf)
  stored = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
  whole = by_definition(stored, layout)
  for first in range(len(leaf)):  # the axis that is cut
    index = [slice(0, n) for n in leaf]
    index[first] = slice(1, 3)
    at = hf_names.stored_slices(layout, index, leaf)
    read = stored[at]
    np.testing.assert_array_equal(
        hf_names.cut(read, layout, index, leaf), whole[tuple(index)])
    if first in {group[0] for group in hf_names.LAYOUTS[layout]}:
      assert read.size == whole[tuple(index)].size
