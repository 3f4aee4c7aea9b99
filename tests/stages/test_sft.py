"""Supervised runs: they learn, weigh, stop, go on, and leave weights behind."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from r1jax.checkpoint.manager import Manager
from r1jax.data.streams import sft as data_lib
from r1jax.models.compute import Compute
from r1jax.report import writer
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import sft, weights
from r1jax.training import lora
from r1jax.training import state as state_lib
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig
from tests.stages import cases

SAME_UPDATE = dict(rtol=0, atol=1e-5)
CONFIG = sft.SftConfig(
    epochs=2, rows=8, row_length=64, save_every=2, eval_every=2,
    template="plain", optimizer=OptimizerConfig(
        lr=0.02, schedule="cosine", final_fraction=0.1))
LORA = LoraConfig(rank=3, alpha=6.0)


def rows(count, first=0):
  for i in range(first, first + count):
    yield {"prompt": f"{i} + 2", "completion": f"{i + 2}", "source": "sum"}
    yield {"messages": [
        {"role": "user", "content": f"Say {i}"},
        {"role": "assistant", "content": f"{i}"},
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": f"{i}, {i}"}], "source": "say"}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
  """(trained on, held out)."""
  found = []
  for name, first in (("train", 0), ("held_out", 50)):
    path = tmp_path_factory.mktemp("data") / f"{name}.jsonl"
    path.write_text("".join(
        json.dumps(row) + "\n" for row in rows(24 if not first else 5, first)))
    found.append(data_lib.load([path], cases.tokenizer(), "plain", 64).examples)
  return found


def train(workdir, examples, *, policy=None, mesh=None, **changes):
  train_on, held_out = examples
  return sft.run(
      dataclasses.replace(CONFIG, **changes),
      policy or cases.handed(cases.DENSE), cases.tokenizer(), train_on, workdir,
      held_out=held_out, mesh=mesh, settings={"init": "random:tiny"})


@pytest.fixture(scope="module")
def trained(examples, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("sft")
  return workdir, train(workdir, examples)


def test_the_answers_are_learnt(trained, examples):
  workdir, _ = trained
  found = writer.read(workdir)
  steps = CONFIG.packed(examples[0]).steps()
  assert [row["step"] for row in found] == list(range(1, steps + 1))
  assert steps > 4
  losses = [row["loss/cross_entropy"] for row in found]
  assert losses[-1] < 0.7 * losses[0]
  measured = {row["step"]: row["eval/cross_entropy"] for row in found
              if "eval/cross_entropy" in row}
  assert sorted(measured) == sorted({*range(2, steps + 1, 2), steps})
  assert measured[steps] < measured[2]
  rates = [row["learning_rate"] for row in found]
  assert rates[0] == pytest.approx(0.02)
  want = 0.002 + 0.018 * (1 + np.cos(np.pi * (steps - 1) / steps)) / 2
  assert rates[-1] == pytest.approx(want)
  saved = json.loads((workdir / "config.json").read_text())["config"]
  assert saved["optimizer"]["total_steps"] == saved["steps"] == steps
  assert (workdir / "tokenizer").exists()


def test_heldout_loss_is_the_mean_over_its_answers(trained, examples):
  """Against rows of one example each."""
  _, found = trained
  shape = len(examples[1]), max(len(e.tokens) for e in examples[1])
  tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  for row, example in enumerate(examples[1]):
    length = len(example.tokens)
    tokens[row, :length], segments[row, :length] = example.tokens, 1
  out = jax.jit(found.model.forward)(
      found.params, found.router_bias_LE, tokens,
      np.broadcast_to(np.arange(shape[1]), shape), segments)
  logprobs = np.asarray(jax.nn.log_softmax(
      out.hidden_BTD @ found.model.head(found.params)))
  total, count = 0.0, 0
  for row, example in enumerate(examples[1]):
    for t in np.flatnonzero(example.trained[1:]):
      total -= float(logprobs[row, t, example.tokens[t + 1]])
      count += 1
  row = writer.read(trained[0])[-1]
  assert row["eval/cross_entropy"] == pytest.approx(total / count, rel=1e-5)


class Interrupted(sft.Packed):
  """Asks the process to stop while it makes batch 2."""

  def batch(self, number):
    if number == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return super().batch(number)


@pytest.mark.parametrize("adapter", [LoraConfig(), LORA], ids=["full", "lora"])
def test_stopped_it_goes_on_bit_for_bit(
    adapter, trained, examples, tmp_path, monkeypatch):
  workdir, whole = trained
  if adapter.rank:
    workdir = tmp_path / "whole"
    whole = train(workdir, examples, lora=adapter)
  with monkeypatch.context() as patch:
    patch.setattr(sft, "Packed", Interrupted)
    train(tmp_path / "run", examples, lora=adapter)
  done = len(writer.read(tmp_path / "run"))
  assert 0 < done < len(writer.read(workdir))
  resumed = train(tmp_path / "run", examples, lora=adapter)
  cases.same(resumed.params, whole.params)
  assert writer.read(tmp_path / "run") == writer.read(workdir)


@pytest.mark.parametrize("last", [False, True], ids=["amid", "at the end"])
def test_stopped_inside_an_evaluation_it_goes_on_bit_for_bit(
    last, trained, examples, tmp_path, monkeypatch, capfd):
  """The update before it is not made again, nor its row written twice."""
  workdir, whole = trained
  rows_of_whole = writer.read(workdir)
  at, due = len(rows_of_whole) if last else 2, sft.due

  def signalled(cfg, number):
    if number == at:
      os.kill(os.getpid(), signal.SIGTERM)
    return due(cfg, number)

  with monkeypatch.context() as patch:
    patch.setattr(sft, "due", signalled)
    train(tmp_path, examples)
  assert f"saved inside step {at}, after the update" in capfd.readouterr().err
  assert writer.read(tmp_path) == rows_of_whole[:at - 1]
  resumed = train(tmp_path, examples)
  cases.same(resumed.params, whole.params)
  assert writer.read(tmp_path) == rows_of_whole


def test_an_adapter_run_leaves_the_adapter_and_gives_joined_weights(
    examples, tmp_path):
  """`orbax:` of it, through the init that its config names."""
  base = cases.policy()
  path = tmp_path / "base.safetensors"
  weights.save(path, cases.MIXTURE, base.params, base.router_bias_LE,
               dtype="float32")
  found = sft.run(
      dataclasses.replace(CONFIG, lora=LORA, steps=2,
                          bias_update_speed=0.1),
      weights.Handover(base), cases.tokenizer(), examples[0], tmp_path / "run",
      settings={"init": f"file:{path}"})
  cases.same(base.params, cases.policy().params)
  state, config, _ = weights.restored(tmp_path / "run", Compute())
  assert config == LORA
  assert {name for path, _ in jax.tree_util.tree_flatten_with_path(
      state.params)[0] for name in [path[-1].key]} == {"w_a", "w_b"}
  got = weights.load(f"orbax:{tmp_path / 'run'}", Compute(), jax.random.key(9))
  cases.same(got.params, found.params)
  cases.same(got.router_bias_LE, found.router_bias_LE)
  assert np.abs(got.router_bias_LE - cases.policy().router_bias_LE).max() > 0.05
  w = "mixture_blocks", "attn", "w_o"
  for tree in (lora.dense(got.params), lora.dense(lora.join(
      base.params, state.params, LORA.scale))):
    for name in w:
      tree = tree[name]
    assert np.abs(tree - base.params[w[0]][w[1]][w[2]]).max() > 1e-3

  config_json = tmp_path / "run/config.json"
  config_json.write_text(config_json.read_text().replace('"init"', '"from"'))
  with pytest.raises(ValueError, match="does not say which parameters the"):
    weights.load(f"orbax:{tmp_path / 'run'}", Compute(), jax.random.key(0))


def test_sources_weigh(examples, tmp_path):
  """A source of weight 2 is that source twice."""
  def run(name, chosen):
    rates = OptimizerConfig(lr=0.3, eps=1.0)
    return sft.run(
        dataclasses.replace(CONFIG, epochs=1, rows=32, optimizer=rates),
        cases.handed(cases.DENSE), cases.tokenizer(), chosen,
        tmp_path / name).params

  first, second = examples[0][:12], examples[0][12:24]
  heavy = run("heavy", [e._replace(weight=2.0) for e in first] + second)
  twice = run("twice", [*first, *first, *second])
  plain = run("plain", [*first, *second])
  assert len(writer.read(tmp_path / "twice")) == 1
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_UPDATE),
               heavy, twice)
  gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), heavy, plain)
  assert max(jax.tree.leaves(gaps)) > 1e-3


def test_a_mesh_and_micro_batches_give_the_updates_of_one_device(
    examples, tmp_path):
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  shared = dict(steps=2, eval_every=0, optimizer=OptimizerConfig(
      lr=0.3, eps=1.0))
  one = train(tmp_path / "one", examples, **shared)
  many = train(tmp_path / "many", examples, mesh=mesh, micro_batches=2,
               **shared)
  assert many.params["embed"].sharding.mesh == mesh
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_UPDATE),
               jax.device_get(many.params), one.params)
  for row, want in zip(writer.read(tmp_path / "many"),
                       writer.read(tmp_path / "one"), strict=True):
    assert row.keys() == want.keys()
    for name in row.keys():
      assert row[name] == pytest.approx(want[name], rel=1e-4, abs=1e-6), name


def test_another_config_is_refused(trained, examples):
  workdir, _ = trained
  with pytest.raises(ValueError, match="epochs: 2 -> 3"):
    train(workdir, examples, epochs=3)
  with pytest.raises(ValueError, match="lora.rank: 0 -> 3"):
    train(workdir, examples, lora=LORA)


@pytest.mark.parametrize("changes,message", [
    (dict(rows=3, micro_batches=2), "rows=3 do not divide into"),
    (dict(epochs=0), "epochs=0 and steps=0: nothing"),
    (dict(row_length=0), "row_length=0 must be positive"),
    (dict(seed=-1), "seed=-1 must not be negative")])
def test_bad_settings(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("changes,message", [
    (dict(row_length=300), "row_length is 300 tokens, the model's context"),
    (dict(rows=12), "12 rows of a micro-batch do not divide over 8")])
def test_what_does_not_fit_is_refused_before_the_workdir_is_taken(
    examples, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    train(tmp_path / "run", examples, mesh=make_mesh(), **changes)
  assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_kept_of_the_last_update(trained):
  workdir, _ = trained
  manager = Manager(workdir / "checkpoints", read_only=True)
  assert manager.latest_step() == len(writer.read(workdir))
  manager.close()


def test_a_run_can_be_made_longer(examples, tmp_path):
  """By the former schedule; the refusal of another says how."""
  train(tmp_path, examples, steps=2)
  before = writer.read(tmp_path)
  with pytest.raises(ValueError, match=r"optimizer.total_steps: 2 -> 4 \(to"
                     r" train longer .*give --optimizer.total_steps=2\)"):
    train(tmp_path, examples, steps=4)
  assert writer.read(tmp_path) == before
  train(tmp_path, examples, steps=4, optimizer=dataclasses.replace(
      CONFIG.optimizer, total_steps=2))
  rows = writer.read(tmp_path)
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  assert rows[:2] == before
  last = CONFIG.optimizer.lr * CONFIG.optimizer.final_fraction
  assert rows[3]["learning_rate"] == pytest.approx(last)


def test_every_setting_of_the_optimizer_reaches_the_state(examples, tmp_path):
  """Moments in bfloat16, split over replicas, parameters without masters."""
  mesh = make_mesh(MeshConfig(data=4, fsdp=2))
  rates = dataclasses.replace(
      CONFIG.optimizer, zero1=True, moments="bfloat16")
  states = []
  with pytest.MonkeyPatch.context() as patch:
    start = state_lib.start
    patch.setattr(state_lib, "start", lambda *args, **kwargs: (
        states.append(start(*args, **kwargs)), states[-1])[1])
    train(tmp_path, examples, steps=1, mesh=mesh, rows=8, optimizer=rates)
  moments = [x for x in jax.tree.leaves(states[0].shardings.opt_state)]
  assert any("data" in str(x.spec) for x in moments)
  kinds = {x.dtype for x in jax.tree.leaves(states[0].state.opt_state)
           if x.ndim}
  assert kinds == {np.dtype("bfloat16")}
