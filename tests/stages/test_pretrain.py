"""Pre-training stops and goes on; weights leave and come back."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from r1jax.data.sources import corpus
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.report import writer
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import pretrain, weights
from r1jax.training.optimizer import OptimizerConfig
from tests.stages import cases

CONFIG = pretrain.PretrainConfig(
    steps=4, rows=2, row_length=192, save_every=3,
    optimizer=OptimizerConfig(lr=1e-2))
BFLOAT16 = dict(rtol=2**-8, atol=0)


def train(workdir, steps=4, mesh=None, **changes):
  cfg = dataclasses.replace(CONFIG, steps=steps, **changes)
  return pretrain.run(
      cfg, weights.Handover(random(cases.MIXTURE)), cases.tokenizer(),
      functools.partial(corpus.document, cfg.seed), workdir, mesh=mesh)


def random(config):
  model = build(config)
  return weights.Weights(model, jax.jit(model.init)(jax.random.key(0)),
                         model.init_router_bias())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("pretrain")
  return workdir, train(workdir, steps=2)


def test_two_and_two_steps_are_four(trained, tmp_path):
  workdir, _ = trained
  resumed, whole = train(workdir), train(tmp_path)
  cases.same(vars(resumed), vars(whole))
  assert writer.read(workdir) == writer.read(tmp_path)
  rows = writer.read(workdir)
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  assert {"loss/cross_entropy", "loss/mtp", "loss/balance", "entropy",
          "grad_norm", "load/max_over_mean"} <= rows[0].keys()
  assert rows[-1]["loss/cross_entropy"] < rows[0]["loss/cross_entropy"]
  assert np.abs(np.asarray(whole.router_bias_LE)).max() > 0


def test_a_mesh_gives_the_updates_of_one_device(tmp_path):
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, expert=2))
  alone = train(tmp_path / "alone", steps=2, rows=8)
  split = train(tmp_path / "split", steps=2, rows=8, mesh=mesh)
  rows = [writer.read(tmp_path / name) for name in ("alone", "split")]
  for a, b in zip(*rows, strict=True):
    for name in ("loss/cross_entropy", "loss/mtp", "grad_norm"):
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4)
  cases.same(alone.router_bias_LE, split.router_bias_LE)
  with pytest.raises(ValueError, match="do not divide over 8 devices"):
    train(tmp_path / "odd", rows=4, mesh=mesh)


def test_another_config_is_refused(trained):
  workdir, _ = trained
  with pytest.raises(ValueError, match="optimizer.lr: 0.01 -> 0.02"):
    train(workdir, optimizer=OptimizerConfig(lr=0.02))


def test_bad_settings(tmp_path):
  with pytest.raises(ValueError, match="rows=3 do not divide"):
    pretrain.PretrainConfig(rows=3, micro_batches=2)
  with pytest.raises(ValueError, match="steps=0 must be positive"):
    pretrain.PretrainConfig(steps=0)
  with pytest.raises(ValueError, match="row_length is 300 tokens"):
    train(tmp_path, row_length=300)
  small = random(dataclasses.replace(cases.MIXTURE, vocab_size=500))
  with pytest.raises(ValueError, match="512 ids, the model's vocabulary"):
    pretrain.run(
        CONFIG, weights.Handover(small), cases.tokenizer(), str, tmp_path)
  assert not list(tmp_path.iterdir())


def load(init):
  return weights.load(init, Compute(), jax.random.key(0))


def test_the_newest_checkpoint_of_a_run(trained):
  workdir, _ = trained
  state = train(workdir)
  found = load(f"orbax:{workdir}")
  assert found.model.cfg == cases.MIXTURE
  cases.same(found.params, state.params)
  cases.same(found.router_bias_LE, state.router_bias_LE)
  half = weights.load(f"orbax:{workdir}", Compute(param_dtype="bfloat16"), None)
  assert half.params["embed"].dtype == "bfloat16"
  np.testing.assert_array_equal(
      half.params["embed"], state.params["embed"].astype("bfloat16"))
  assert half.params["mixture_blocks"]["ffn"]["w_router"].dtype == "float32"


@pytest.mark.parametrize("config", [cases.MIXTURE, cases.DENSE],
                         ids=["mixture", "dense"])
def test_a_file_keeps_all_but_precision(config, tmp_path):
  policy = cases.policy(config)
  for dtype, close in (("float32", dict(rtol=0)), ("bfloat16", BFLOAT16)):
    path = tmp_path / f"{dtype}.safetensors"
    weights.save(path, config, policy.params, policy.router_bias_LE,
                 dtype=dtype)
    found = load(f"file:{path}")
    assert found.model.cfg == config
    cases.same(found.router_bias_LE, policy.router_bias_LE)
    jax.tree.map(lambda a, b, close=close: np.testing.assert_allclose(
        a, b, **close), found.params, policy.params)


def test_random_parameters_have_the_presets_shape():
  found = load("random:tiny-dense")
  assert found.model.cfg.attention == "gqa"
  assert found.router_bias_LE.shape == (0, 0)


@pytest.mark.parametrize("init,message", [
    ("random:huge", "preset 'huge' is unknown; choose one of r1-671b"),
    ("random:", "init='random:': give base, file:PATH"),
    ("best", "init='best': give base, file:PATH.safetensors, orbax:WORKDIR"),
    ("base:x", "init='base:x': give base"),
    ("file:/nowhere/x.safetensors", "/nowhere/x.safetensors"),
    ("orbax:/nowhere", "must be the --workdir of a training run")])
def test_bad_init(init, message):
  with pytest.raises(ValueError, match=message):
    load(init)


def test_without_the_embedded_base(monkeypatch, tmp_path):
  monkeypatch.setitem(weights.BASES, "", tmp_path / "base.safetensors")
  with pytest.raises(ValueError, match="base.safetensors"):
    load("base")


def test_a_run_without_checkpoint(tmp_path):
  config = {"config": {"model": dataclasses.asdict(cases.DENSE)}}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="no checkpoint"):
    load(f"orbax:{tmp_path}")


def test_a_truncated_file(tmp_path):
  policy = cases.policy(cases.DENSE)
  path = tmp_path / "x.safetensors"
  weights.save(path, cases.DENSE, policy.params, policy.router_bias_LE)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match="x.safetensors"):
    load(f"file:{path}")
