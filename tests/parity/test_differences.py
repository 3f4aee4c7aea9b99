"""Where transformers departs from DeepSeek's mathematics, and we do not."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checkpoint import hf_config
from r1jax.models import deepseek
from r1jax.ops import router
from tests.parity import configs, hf, ours
from tests.parity.ours import LOGITS, TOKENS, gap
from tests.reference import router as reference

pytestmark = pytest.mark.torch

RNG = np.random.default_rng(5)
X_XD = RNG.normal(size=(50, 30)).astype(np.float32)


def _gate(model, x):
  """(experts [X, A] in ascending order, their weights) of the last router."""
  with hf.torch.no_grad():
    _, weights, experts = model.model.layers[-1].mlp.gate(hf.torch.tensor(x))
  order = np.argsort(experts.numpy(), -1)
  return tuple(np.take_along_axis(a.numpy(), order, -1)
               for a in (experts, weights))


def _fill(scores_XE, bias_E, n_groups, n_limited, n_activated, fill):
  """Selection with masked groups at `fill`, ascending."""
  choice = (scores_XE + bias_E).reshape(len(scores_XE), n_groups, -1)
  group = np.sort(choice, -1)[..., -2:].sum(-1)
  kept = np.argsort(-group, -1)[:, :n_limited]
  mask = (kept[:, :, None] == np.arange(n_groups)).any(1)
  choice = np.where(mask[:, :, None], choice, fill).reshape(scores_XE.shape)
  return np.sort(np.argsort(-choice, -1)[:, :n_activated], -1)


def test_masked_groups_are_never_chosen():
  """Under a negative bias every kept score is negative.

  V3's code masks with -inf, and so do we and transformers 5.23; versions before
  filled 0.0, which wins over what was kept.
  """
  family, fields = configs.get("deepseek_v3:groups")
  model = hf.make(family, fields)
  gate = model.model.layers[-1].mlp.gate
  with hf.torch.no_grad():
    gate.e_score_correction_bias -= 2
  bias = gate.e_score_correction_bias.numpy()
  scores = np.asarray(router.scores(
      X_XD @ gate.weight.detach().numpy().T, "sigmoid"))
  found = np.sort(router.select(jnp.asarray(scores), jnp.asarray(bias), 3, 4,
                                2), -1)
  by_paper = [sorted(reference.select(s, bias, 3, 4, 2)) for s in scores]
  assert found.tolist() == by_paper
  assert found.tolist() == _fill(scores, bias, 4, 2, 3, -np.inf).tolist()
  zeros = _fill(scores, bias, 4, 2, 3, 0.0)
  assert (zeros != found).any(-1).all()
  theirs, _ = _gate(model, X_XD)
  assert theirs.tolist() in (found.tolist(), zeros.tolist())


def test_v2_gates_are_normalised_where_the_file_says_so():
  """transformers does not read norm_topk_prob in V2."""
  family, fields = configs.get("deepseek_v2:limited")
  fields = fields | dict(norm_topk_prob=True, routed_scaling_factor=1.0)
  model = hf.make(family, fields)
  cfg = hf_config.from_hf(fields | {"model_type": family})
  assert cfg.normalize_gates
  theirs, weights = _gate(model, X_XD)
  scores = router.scores(jnp.asarray(
      X_XD @ model.model.layers[-1].mlp.gate.weight.detach().numpy().T),
      "softmax")
  chosen = jnp.sort(router.select(scores, None, 3, 4, 2), -1)
  assert chosen.tolist() == theirs.tolist()
  plain = router.weights(scores, chosen, False, 1.0)
  np.testing.assert_allclose(plain, weights, rtol=LOGITS)
  normalised = router.weights(scores, chosen, True, 1.0)
  np.testing.assert_allclose(normalised.sum(-1), 1, rtol=LOGITS)
  assert np.abs(normalised - weights).min(-1).max() > 0.01


def _imported(name, folder):
  """(cfg, params, bias, logits of transformers)."""
  model = hf.make(*configs.get(name))
  model.save_pretrained(folder)
  return *ours.imported(folder), hf.logits(model, TOKENS)


def test_norms_of_latents_keep_their_epsilon(monkeypatch, tmp_path):
  """DeepSeek's code and transformers give rms_norm_eps to the others only."""
  cfg, params, bias, expected = _imported("deepseek_v3:yarn-bare", tmp_path)
  assert cfg.norm_eps == 1e-3
  monkeypatch.setattr(deepseek, "LATENT_EPS", cfg.norm_eps)
  found, _ = ours.whole(cfg)(params, bias, TOKENS)
  assert gap(found, expected) > 10 * LOGITS


def _rope(**changes):
  return lambda cfg: dataclasses.replace(
      cfg, rope=dataclasses.replace(cfg.rope, **changes))


def _with(**changes):
  return lambda cfg: dataclasses.replace(cfg, **changes)


@pytest.mark.parametrize("name, misread", [
    ("deepseek_v3:yarn", _rope(mscale=0.0)),
    ("deepseek_v3:yarn", _with(n_groups=1, n_limited_groups=1)),
    ("deepseek_v3:yarn", _with(route_scale=1.0)),
    ("deepseek_v3:yarn-bare", _rope(attention_factor=1.0)),
    ("deepseek_v2:limited", _with(normalize_gates=True)),
    ("qwen2:yarn", _rope(attention_factor=1.0)),
    ("qwen2:yarn-card", _rope(scaling="none")),
    ("llama:llama3-steep", _rope(high_factor=4.0)),
    ("llama:yarn-bias", _rope(beta_fast=32.0))])
def test_case_sees_each_switch(name, misread, tmp_path):
  cfg, params, bias, expected = _imported(name, tmp_path)
  assert misread(cfg) != cfg
  found, _ = ours.whole(misread(cfg))(params, bias, TOKENS)
  assert gap(found, expected) > 10 * LOGITS
