"""Reward models score as transformers' ...ForSequenceClassification do."""

import json

import jax
import numpy as np
import pytest

from r1jax.checkpoint import hf_config
from r1jax.data.streams import preference, sft
from r1jax.data.text import hf_tokenizer
from r1jax.models import scalar_head
from r1jax.models.compute import Compute
from r1jax.stages import exporting, reward_weights
from r1jax.stages.scoring import Scoring
from r1jax.stages.weights import Weights
from tests.data.text import hf_cases

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

SAME = dict(rtol=0, atol=2e-5)
_GQA = dict(
    vocab_size=67, hidden_size=24, intermediate_size=42, num_hidden_layers=2,
    num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128,
    initializer_range=0.3, num_labels=1, pad_token_id=0)
FAMILIES = {
    "qwen2": _GQA, "qwen3": _GQA | dict(head_dim=10),
    "llama": _GQA | dict(attention_bias=True, tie_word_embeddings=True),
    "deepseek_v3": _GQA | dict(
        num_attention_heads=5, num_key_value_heads=5, kv_lora_rank=11,
        q_lora_rank=16, qk_nope_head_dim=6, qk_rope_head_dim=8, v_head_dim=7,
        n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=20,
        num_nextn_predict_layers=0, n_group=4, topk_group=2,
        n_shared_experts=1, first_k_dense_replace=1)}


def texts(vocab, count=9):
  rng = np.random.default_rng(1)
  return [rng.integers(1, vocab, n).astype(np.int32)
          for n in rng.integers(2, 40, count)]


def theirs(model, ids):
  """One batch, padded on the right."""
  pad = model.config.pad_token_id
  rows = np.full((len(ids), max(map(len, ids))), pad, np.int64)
  for row, one in zip(rows, ids, strict=True):
    row[:len(one)] = one
  mask = np.arange(rows.shape[1])[None] < np.array(
      [len(one) for one in ids])[:, None]
  with torch.no_grad():
    return model(torch.tensor(rows), attention_mask=torch.tensor(
        mask.astype(np.int64))).logits[:, 0].numpy()


def ours(found, ids):
  return Scoring(found.model, 4, 48)(found.params, found.router_bias_LE, ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_their_model(family, tmp_path):
  torch.manual_seed(0)
  model = transformers.AutoModelForSequenceClassification.from_config(
      transformers.AutoConfig.for_model(family, **FAMILIES[family])).eval()
  model.save_pretrained(tmp_path)
  found = reward_weights.load(f"hf:{tmp_path}", Compute(), jax.random.key(0))
  ids = texts(67)
  want = theirs(model, ids)
  np.testing.assert_allclose(ours(found, ids), want, **SAME)
  assert np.std(want) > 0.1
  # Teeth: without the last token the scores are others.
  other = ours(found, [one[:-1] for one in ids])
  assert np.max(np.abs(other - want)) > 1e-2


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_they_score_what_we_export(family, tmp_path):
  """With a tokenizer that pads with an end, as many do."""
  tokenizer = hf_tokenizer.load(hf_cases.qwen(tmp_path / "tokenizer"))
  tokenizer.pad_id = min(tokenizer.eos_ids)
  fields = FAMILIES[family] | dict(
      model_type=family, vocab_size=tokenizer.vocab_size + 5, rope_theta=1e4)
  fields.pop("num_labels")
  model = scalar_head.over(
      hf_config.from_hf(fields | dict(rms_norm_eps=1e-6)), Compute())
  found = Weights(
      model, model.init(jax.random.key(0)), model.init_router_bias())
  about = {"blank": -1.0, "template": "chat"}
  exporting.write_reward(
      str(tmp_path / "out"), found, tokenizer, about, init="random:x",
      command="test")
  model = transformers.AutoModelForSequenceClassification.from_pretrained(
      tmp_path / "out").eval()
  assert model.config.num_labels == 1
  eos_id = sft.end_of_answer("chat", tokenizer)
  ids = [preference.encode(
      [{"role": "user", "content": "Hi" * i},
       {"role": "assistant", "content": "You too" * i}], "chat", tokenizer,
      eos_id)[0] for i in range(1, 5)]
  want = theirs(model, ids)
  np.testing.assert_allclose(ours(found, ids), want, **SAME)
  assert reward_weights.about(f"hf:{tmp_path / 'out'}") == about
  back = reward_weights.load(
      f"hf:{tmp_path / 'out'}", Compute(), jax.random.key(3))
  np.testing.assert_array_equal(ours(back, ids), ours(found, ids))


def test_two_labels_and_a_policy_are_refused(tmp_path):
  from r1jax.stages import weights
  model = transformers.AutoModelForSequenceClassification.from_config(
      transformers.AutoConfig.for_model(
          "qwen2", **_GQA | dict(num_labels=2)))
  model.save_pretrained(tmp_path)
  with pytest.raises(ValueError, match=r"score.weight is \(2, 24\)"):
    reward_weights.load(f"hf:{tmp_path}", Compute(), jax.random.key(0))
  with pytest.raises(ValueError, match="superfluous: score.weight"):
    weights.load(f"hf:{tmp_path}", Compute(), jax.random.key(0))
  fields = json.loads((tmp_path / "config.json").read_text())
  assert hf_config.is_scalar(fields)
  with pytest.raises(ValueError, match="reward.json does not exist. It has"):
    reward_weights.about(f"hf:{tmp_path}")
