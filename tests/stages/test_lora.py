"""GRPO that trains an adapter: the base rests, and is the reference."""

import jax
import numpy as np
import pytest

from r1jax.checkpoint import peft
from r1jax.data.streams import packing
from r1jax.losses.policy import PolicyConfig
from r1jax.models.compute import Compute
from r1jax.report import writer
from r1jax.sharding import mesh as mesh_lib
from r1jax.stages import exporting, grpo, weights
from r1jax.stages.learner import Learner
from r1jax.training import lora
from r1jax.training.lora import LoraConfig
from tests.stages import cases

LORA = LoraConfig(rank=3, alpha=6.0)
LOGP = 1e-5
SAME_UPDATE = dict(rtol=0, atol=1e-5)


def train(workdir, base, path, steps=3, mesh=None, **changes):
  return grpo.run(
      cases.config(steps=steps, lora=LORA, **changes),
      weights.Handover.copied(base), cases.judge(),
      cases.prompts(), workdir, mesh=mesh, settings={"init": f"file:{path}"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(workdir, weights file of the base, the base, what came out)."""
  folder = tmp_path_factory.mktemp("lora")
  base, path = cases.policy(cases.DENSE), folder / "base.safetensors"
  weights.save(path, cases.DENSE, base.params, base.router_bias_LE,
               dtype="float32")
  return folder / "run", path, base, train(folder / "run", base, path)


def test_the_adapted_policy_samples_and_moves_away_from_the_base(trained):
  workdir, _, base, found = trained
  rows = writer.read(workdir)
  assert all(0 < row["rollout/logp_diff_max"] <= LOGP for row in rows)
  assert rows[0]["policy/kl"] == 0 < rows[1]["policy/kl"]
  cases.same(base.params, cases.policy(cases.DENSE).params)
  state, *_ = weights.restored(workdir, Compute())
  joined = lora.join(base.params, state.params, LORA.scale)
  cases.same(joined, found.params)
  # Teeth: the base is not what sampled.
  moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(), base.params, lora.dense(found.params))
  assert moved["dense_blocks"]["attn"]["w_q"] > 1e-3
  assert moved["embed"] == 0


def test_it_goes_on_bit_for_bit_and_gives_joined_weights(trained, tmp_path):
  workdir, path, base, found = trained
  train(tmp_path, base, path, steps=2)
  resumed = train(tmp_path, base, path)
  cases.same(resumed.params, found.params)
  loaded = weights.load(f"orbax:{tmp_path}", Compute(), jax.random.key(0))
  cases.same(loaded.params, found.params)


def test_a_mesh_gives_the_updates_of_one_device(trained, tmp_path):
  _, path, base, found = trained
  mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
  other = train(tmp_path, base, path, mesh=mesh)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_UPDATE),
               jax.device_get(other.params), found.params)


def hidden(found):
  """States of some tokens, by the model's own function."""
  tokens = np.arange(60, dtype=np.int32).reshape(2, 30)
  positions = np.broadcast_to(np.arange(30, dtype=np.int32), tokens.shape)
  return jax.jit(found.model.forward)(
      found.params, found.router_bias_LE, tokens, positions,
      np.ones_like(tokens)).hidden_BTD


def test_a_file_holds_the_float32_sum_rounded_once(trained, tmp_path):
  """What it loses is measured, and said with what to do about it."""
  workdir, _, base, _ = trained
  init = f"orbax:{workdir}"
  found = weights.load(init, Compute(), jax.random.key(0))
  said = {dtype: exporting.write(
      str(tmp_path / dtype), found, cases.tokenizer(), init=init,
      command="test", dtype=dtype) for dtype in ("float32", "bfloat16")}
  exact, rounded = (weights.load(f"hf:{tmp_path / dtype}", Compute(), None)
                    for dtype in said)
  sums = lora.dense(found.params)
  cases.same(exact.params, sums)
  cases.same(rounded.params, jax.tree.map(
      lambda x: np.float32(x.astype("bfloat16")), sums))
  # Sampler, trainer and evaluation call this function with joined parameters.
  np.testing.assert_allclose(hidden(exact), hidden(found), rtol=0, atol=2e-5)
  assert np.abs(hidden(found) - hidden(base)).max() > 1e-2  # teeth
  lost = lora.rounded_away(found.params, "bfloat16")
  assert f"sums lose {lost:.2g} of the adaptation" in said["bfloat16"]
  assert lost > 0.01 and "--dtype=float32 keeps it" in said["bfloat16"]
  assert "sums lose" in said["float32"] and "--dtype" not in said["float32"]
  assert said["bfloat16"] in (tmp_path / "bfloat16/README.md").read_text()


def test_training_goes_on_from_an_adapter(trained):
  """All parameters from its float32 sum; another adapter on top of it."""
  workdir, _, _, _ = trained
  found = weights.load(f"orbax:{workdir}", Compute(dtype="bfloat16"), None)
  whole = Learner(cases.config(), weights.Handover.copied(found), None)
  cases.same(whole.state.params, lora.dense(found.params))
  second = Learner(cases.config(lora=LoraConfig(rank=2, alpha=1.0)),
                   weights.Handover.copied(found), None)
  w, first = (tree["dense_blocks"]["attn"]["w_q"]
              for tree in (second.params, found.params))
  assert w.a.shape[-1] == 2 + LORA.rank
  np.testing.assert_allclose(w.scale * (w.a @ w.b.reshape(*w.b.shape[:2], -1)),
                             first.scale * (first.a @ first.b.reshape(
                                 *first.b.shape[:2], -1)), rtol=0, atol=1e-6)
  with second.sampling() as params:
    w = params["dense_blocks"][0]["attn"]["w_q"]
    assert (w.w.dtype, w.a.dtype) == ("bfloat16", "float32")


def test_an_exported_adapter_names_its_base_and_goes_on(trained, tmp_path):
  """As the run itself: the same policy, on the model that it was trained on."""
  workdir, path, _, found = trained
  policy, adapter, settings = weights.restored(workdir, Compute())
  base = weights.named_base(settings["init"])
  assert base == f"file:{path}"
  peft.save(tmp_path, policy.model.cfg, policy.params, rank=adapter.rank,
            alpha=adapter.alpha, base=base)
  init = f"peft:{tmp_path}"
  assert weights.config_of(init) == policy.model.cfg
  again = weights.load(init, Compute(), None)
  cases.same(again.params, found.params)
  second = Learner(cases.config(lora=LoraConfig(rank=2, alpha=1.0)),
                   weights.Handover.copied(again), None)
  assert second.params["dense_blocks"]["attn"]["w_q"].a.shape[-1] == (
      2 + LORA.rank)


def test_bases_of_adapters(trained, tmp_path):
  workdir, *_ = trained
  named = weights.named_base(f"orbax:{workdir}")
  assert named == f"orbax:{workdir}"
  (tmp_path / "config.json").write_text(
      '{"config": {"imported_from": "/models/qwen"}}')
  assert weights.named_base(f"orbax:{tmp_path}") == "/models/qwen"
  assert weights.named_base("base") == "base"
  (tmp_path / peft.CONFIG).write_text(
      '{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
  with pytest.raises(ValueError, match="does not name the model that"):
    weights.base_of_adapter(tmp_path)


def test_pmap_is_refused():
  with pytest.raises(ValueError, match="not lora.rank=2; choose driver='mesh'"):
    cases.config(lora=LoraConfig(rank=2), driver="pmap")


def test_the_reference_is_an_adapter_that_is_refreshed(trained):
  _, _, base, _ = trained
  cfg = cases.config(lora=LORA, reference_every=2, policy=PolicyConfig(
      kl_beta=0.1))
  learner = Learner(cfg, weights.Handover.copied(base), None)
  first = jax.device_get(learner.reference["params"])
  placed = learner.placed(packing.pack([packing.Sequence(
      tokens=np.arange(3, 20, dtype=np.int32), prompt=4, advantage=1.0,
      logprobs=np.zeros(13, np.float32))], cfg.row_length, cfg.micro_rows))
  for number in (1, 2):
    ((fixed,),) = learner.fixed_logprobs([placed])
    learner.update([placed[0].replace(**fixed)])
    now = jax.device_get(learner.reference["params"])
    if number == 1:
      cases.same(now, first)
  cases.same(now, jax.device_get(learner.state.params))
  leaves = jax.tree.leaves(learner.arrays()["reference"]["params"])
  assert sum(x.size for x in leaves) < sum(
      x.size for x in jax.tree.leaves(base.params)) / 2
