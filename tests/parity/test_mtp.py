"""The multi-token prediction module of a V3 checkpoint.

transformers does not write the module, so ours writes the file.
"""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.checkpoint import hf_config, hf_io
from r1jax.models.model import build
from tests.parity import configs, hf, ours
from tests.parity.ours import LOGITS, TOKENS, gap

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def case(tmp_path_factory):
  """(folder, cfg, params, bias, logits of transformers without the module)."""
  root, rng = tmp_path_factory.mktemp("mtp"), np.random.default_rng(9)
  model = hf.make(*configs.get("deepseek_v3:groups"))
  model.save_pretrained(root / "without")
  cfg, params, bias = ours.imported(root / "without")
  cfg = dataclasses.replace(cfg, n_mtp=1)
  shapes = jax.eval_shape(build(cfg).init, jax.random.key(0))["mtp"]
  params = params | {"mtp": jax.tree.map(
      lambda x: np.float32(0.3 * rng.normal(size=x.shape)), shapes)}
  bias = np.concatenate([bias, np.float32(0.1 * rng.normal(size=(1, 12)))])
  folder = root / "with"
  hf_io.save(folder, cfg, params, bias, dtype="float32",
             fields=hf_config.to_hf(cfg, "deepseek_v3", bos_id=0, eos_ids=[1],
                                    dtype="float32"))
  return folder, cfg, params, bias, hf.logits(model, TOKENS)


def test_round_trip(case):
  folder, cfg, params, bias, _ = case
  found = ours.imported(folder)
  assert found[0] == cfg
  jax.tree.map(np.testing.assert_array_equal, found[1:], (params, bias))


def test_main_model_is_left_alone(case):
  folder, *_, expected = case
  np.testing.assert_array_equal(hf.logits(hf.load(folder), TOKENS), expected)


def test_predictions(case):
  folder, cfg, params, bias, _ = case
  expected = hf.mtp_logits(folder, TOKENS)
  assert gap(ours.mtp_logits(cfg, params, bias, TOKENS), expected) < LOGITS
  swapped = params | {"mtp": params["mtp"] | {
      "w_join": np.roll(params["mtp"]["w_join"], cfg.d_model, 0)}}
  assert gap(ours.mtp_logits(cfg, swapped, bias, TOKENS), expected) > 0.01
