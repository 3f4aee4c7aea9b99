"""Reward runs: they learn to order, stop, go on, and say what blanks get."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from r1jax.checkpoint import inits
from r1jax.data.streams import preference as data_lib
from r1jax.models import scalar_head
from r1jax.models.compute import Compute
from r1jax.report import writer
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import reward, reward_weights, weights
from r1jax.stages.scoring import Scoring
from r1jax.stages.weights import Handover, Weights
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig
from tests.stages import cases

SAME = dict(rtol=1e-5, atol=1e-5)
CONFIG = reward.PreferenceConfig(
    epochs=3, rows=16, row_length=48, save_every=2, eval_every=4,
    template="plain", optimizer=OptimizerConfig(lr=0.01))
LORA = LoraConfig(rank=3, alpha=6.0)
WORDS = "one two three four five six seven eight nine ten".split()


def rows(count, first=0):
  """A polite answer is better than a rude one; labels likewise."""
  for i in range(first, first + count):
    said = WORDS[i % 10]
    yield {"prompt": f"Say {i}", "chosen": f"Please: {said}",
           "rejected": f"No {WORDS[i * 7 % 10]}", "source": "ab"[i % 2]}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
  """loss -> (trained on, held out)."""
  path = tmp_path_factory.mktemp("data") / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
  return {loss: data_lib.divided(data_lib.load(
      [path], cases.tokenizer(), "plain", 48, loss).examples, 0.2)
          for loss in ("pairwise", "pointwise")}


def first():
  policy = cases.policy(cases.DENSE)
  model = scalar_head.over(cases.DENSE, Compute())
  return Handover(Weights(model, *scalar_head.grown(
      model, policy.params, policy.router_bias_LE, jax.random.key(0))))


def train(workdir, examples, *, mesh=None, init="random:tiny", initial=None,
          **changes):
  cfg = dataclasses.replace(CONFIG, **changes)
  return reward.run(
      cfg, initial or first(), cases.tokenizer(), *examples[cfg.loss], workdir,
      mesh=mesh, settings={"init": init})


@pytest.fixture(scope="module")
def trained(examples, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("reward")
  return workdir, train(workdir, examples)


def scored(found, examples):
  scoring = Scoring(found.model, 4, 48)
  ids = [side for e in examples for side in e.sides]
  return scoring(found.params, found.router_bias_LE, ids)


def test_pairs_are_learnt_and_the_blank_is_below_bad_answers(
    trained, examples):
  workdir, found = trained
  log = writer.read(workdir)
  assert log[-1]["loss/pairwise"] < 0.5 * log[0]["loss/pairwise"]
  assert log[-1]["eval/accuracy"] == 1.0
  about = json.loads((workdir / "reward.json").read_text())
  held_out = examples["pairwise"][1]
  assert about["validation"]["count"] == len(held_out) > 5
  assert set(about["validation"]["by_source"]) == {"a", "b"}
  scores = scored(found, held_out).reshape(-1, 2)
  assert about["blank"] < scores[:, 1].min() and about["template"] == "plain"
  assert about["blank"] > scores[:, 1].min() - 5
  assert abs(scores.mean()) < 3  # centred
  assert (workdir / "reward.png").stat().st_size > 10_000
  assert "100.0% of" in reward.summary(workdir)
  # What is on disk scores the same, without being told what it is.
  loaded = reward_weights.load(
      f"orbax:{workdir}", Compute(), jax.random.key(5))
  cases.same(loaded.params, found.params)
  assert reward_weights.about(f"orbax:{workdir}") == about
  with pytest.raises(ValueError, match="has a reward model"):
    weights.load(f"orbax:{workdir}", Compute(), jax.random.key(0))


def test_labelled_answers_are_learnt(examples, tmp_path):
  found = train(tmp_path, examples, loss="pointwise")
  about = json.loads((tmp_path / "reward.json").read_text())
  assert about["validation"]["auroc"] > 0.95
  assert sum(row["count"] for row in about["validation"]["reliability"]) == len(
      examples["pointwise"][1])
  scores = scored(found, examples["pointwise"][1])
  labels = np.array([e.label for e in examples["pointwise"][1]])
  assert about["blank"] < scores[labels == 0].min()


class Interrupted(data_lib.Packed):
  """Asks the process to stop while it makes batch 2."""

  def batch(self, number):
    if number == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return super().batch(number)


@pytest.mark.parametrize("adapter", [LoraConfig(), LORA], ids=["full", "lora"])
def test_stopped_it_goes_on_bit_for_bit(
    adapter, trained, examples, tmp_path, monkeypatch):
  workdir, whole = trained
  options = {}
  if adapter.rank:
    workdir, options = tmp_path / "whole", dict(lora=adapter, steps=4)
    whole = train(workdir, examples, **options)
  with monkeypatch.context() as patch:
    patch.setattr(reward, "Packed", Interrupted)
    train(tmp_path / "run", examples, **options)
  done = len(writer.read(tmp_path / "run"))
  assert 0 < done < len(writer.read(workdir))
  assert not reward.finished(tmp_path / "run")
  with pytest.raises(ValueError, match="the run is not finished"):
    reward_weights.about(f"orbax:{tmp_path / 'run'}")
  resumed = train(tmp_path / "run", examples, **options)
  cases.same(resumed.params, whole.params)
  assert writer.read(tmp_path / "run") == writer.read(workdir)
  assert (tmp_path / "run/reward.json").read_text() == (
      workdir / "reward.json").read_text()
  # Killed between the last checkpoint and reward.json, it writes that alone.
  os.remove(tmp_path / "run/reward.json")
  train(tmp_path / "run", examples, **options)
  assert reward.finished(tmp_path / "run")
  assert writer.read(tmp_path / "run") == writer.read(workdir)


def test_a_finished_run_that_goes_on_is_not_finished(
    examples, tmp_path, monkeypatch):
  steady = dict(optimizer=dataclasses.replace(
      CONFIG.optimizer, schedule="constant"))
  train(tmp_path, examples, steps=1, **steady)
  assert reward.finished(tmp_path)
  with monkeypatch.context() as patch:
    patch.delattr(reward.Trainer, "update")
    with pytest.raises(AttributeError):
      train(tmp_path, examples, steps=2, **steady)
  assert not reward.finished(tmp_path)
  train(tmp_path, examples, steps=2, **steady)
  assert reward.finished(tmp_path)


def test_an_adapter_is_joined_to_its_policy_on_loading(examples, tmp_path):
  base = cases.policy(cases.DENSE)
  path = tmp_path / "base.safetensors"
  weights.save(path, cases.DENSE, base.params, base.router_bias_LE,
               dtype="float32")
  init = f"file:{path}"
  initial = reward_weights.load(init, Compute(), jax.random.key(0))
  found = train(tmp_path / "run", examples, init=init, lora=LORA, steps=2,
                initial=Handover(initial))
  state, _ = weights.checkpoint(
      tmp_path / "run", inits.settings_of(tmp_path / "run"), found.model,
      None)
  assert set(state.params) == {"dense_blocks", "score"}
  got = reward_weights.load(
      f"orbax:{tmp_path / 'run'}", Compute(), jax.random.key(9))
  cases.same(got.params, found.params)


def test_mesh(trained, examples, tmp_path):
  """One device and a mesh of eight give the same run."""
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  found = train(tmp_path, examples, mesh=mesh, steps=3)
  single = train(tmp_path / "single", examples, steps=3)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME),
               found.params, single.params)
  loaded = reward_weights.load(
      f"orbax:{tmp_path}", Compute(), jax.random.key(0), mesh)
  ids = [e.sides[0] for e in examples["pairwise"][1]]
  scores = Scoring(loaded.model, 8, 48, mesh)(
      loaded.params, loaded.router_bias_LE, ids)
  np.testing.assert_allclose(scores, scored(single, [
      e._replace(sides=e.sides[:1]) for e in examples["pairwise"][1]]),
      rtol=1e-4, atol=1e-4)


def test_long_and_short_texts_are_scored_in_few_shapes():
  found = first().take()
  rng = np.random.default_rng(0)
  lengths = [3, 48, 49, 90, 200, 7, 256, 257, 12]
  ids = [rng.integers(3, 500, n).astype(np.int32) for n in lengths]
  scoring = Scoring(found.model, 4, 48)
  scores = scoring(found.params, found.router_bias_LE, ids)
  assert np.flatnonzero(np.isnan(scores)).tolist() == [7]  # beyond the context
  for number in (0, 1, 2, 4, 6):
    alone = scoring(found.params, found.router_bias_LE, ids[number:number + 1])
    np.testing.assert_allclose(alone, scores[number:number + 1], **SAME)
  assert scoring.compilations() == 3  # rows of 48, 96 and 384
  assert len(scoring(found.params, found.router_bias_LE, [])) == 0


@pytest.mark.parametrize("changes,message", [
    (dict(rows=5), "rows=5 do not divide"), (dict(loss="x"), "loss='x'"),
    (dict(validation=0.0), "validation=0.0"),
    (dict(epochs=0), "nothing would be trained"),
    (dict(centre=-1.0), "centre=-1.0")])
def test_bad_settings(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **changes)


def test_examples_of_another_kind_are_refused(examples, tmp_path):
  with pytest.raises(ValueError, match="loss='pairwise' needs examples with 2"):
    reward.run(CONFIG, first(), cases.tokenizer(), *examples["pointwise"],
               tmp_path)
  with pytest.raises(ValueError, match="no examples held out"):
    reward.run(CONFIG, first(), cases.tokenizer(), examples["pairwise"][0], [],
               tmp_path)
