"""The benchmark of precision, at the size of a test."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import precision
from experiments.benchmarks.precision import FORMS, Run
from r1jax.models.model import build
from r1jax.report import writer
from r1jax.stages import weights
from r1jax.stages.sft import SftConfig
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig
from tests.stages import cases

RUNS = [Run(form, 3e-6, 2) for form in ("bfloat16", "nearest")]
CONFIGS = {run: cases.config(
    steps=2, optimizer=precision.config(run, 0, 4, 8).optimizer)
    for run in RUNS}
TUNING = SftConfig(
    steps=2, rows=2, row_length=128, eval_every=1, template="plain",
    optimizer=OptimizerConfig(lr=1e-5), lora=LoraConfig(rank=2, alpha=8.0))


def base(init, compute):
  """Stored in bfloat16, as the one that ships."""
  first = cases.policy(cases.DENSE)
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(
      compute.param_dtype), first.params)
  return (weights.Weights(build(cases.DENSE, compute), params,
                          first.router_bias_LE), cases.tokenizer())


@contextlib.contextmanager
def judge(tokenizer, template):
  yield cases.judge()


@pytest.fixture(scope="module")
def top(tmp_path_factory):
  """A folder with two runs of RL and one of SFT."""
  top = precision.epath.Path(tmp_path_factory.mktemp("precision"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(precision.judging, "judge", judge)
    patch.setattr(precision.weights, "with_tokenizer", base)
    patch.setattr(precision.tasks, "load", lambda *_: {"": cases.prompts()})
    for run in RUNS:
      assert precision.reinforce(run, CONFIGS[run], "base", run.folder(top))
    assert precision.imitate("bfloat16", TUNING, "base", top / "sft")
  return top


def test_movement():
  rng = np.random.default_rng(0)
  first = {"a": rng.normal(size=(5, 7)), "b": rng.normal(size=3)}
  first = {name: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
           for name, x in first.items()}
  now = {name: x.copy() for name, x in first.items()}
  now["a"][:2] *= 1.25  # bfloat16 sees that
  now["b"][0] *= 1 + 2**-12  # but not that
  found = precision.movement(
      *(jax.tree.map(jnp.asarray, tree) for tree in (now, first)))
  far = sum(((now[k].astype(np.float64) - first[k])**2).sum() for k in now)
  size = sum((first[k].astype(np.float64)**2).sum() for k in now)
  assert float(found["moved/norm"]) == pytest.approx(
      (far / size)**0.5, rel=1e-5)
  assert float(found["moved/share"]) == pytest.approx(15 / 38)
  assert float(found["moved/computing"]) == pytest.approx(14 / 38)


def test_masters_move_where_rounding_to_the_nearest_does_not(top):
  found = {run.form: precision.result(run, run.folder(top)) for run in RUNS}
  moved = found["bfloat16"]
  assert moved["moved_share"] > 0.5 and moved["moved"] > 0
  # What is kept is what computes: two updates of 3e-6 are below its steps.
  stuck = found["nearest"]
  assert stuck["moved_share"] == stuck["computing_share"]
  assert stuck["moved_share"] < 0.1 * moved["moved_share"]


def test_a_run_says_what_became_of_it(top):
  run = RUNS[0]
  rows, found = (f(run.folder(top)) for f in (
      writer.read, lambda folder: precision.result(run, folder)))
  assert [row["step"] for row in found["curve"]] == [1, 2]
  assert found["gap"] == rows[-1]["rollout/logp_diff"] > 0
  assert found["combined"] == rows[-1]["reward/combined"]
  config = json.loads((run.folder(top) / "config.json").read_text())["config"]
  assert (config["form"], config["optimizer"]["lr"]) == ("bfloat16", 3e-6)
  assert config["compute"]["dtype"] == "bfloat16"


def test_the_adapter_learns_beside_a_bfloat16_base(top):
  config = json.loads(
      (top / "sft/bfloat16/config.json").read_text())["config"]
  assert config["compute"]["param_dtype"] == "bfloat16"
  assert (config["lora"]["rank"], config["optimizer"]["lr"]) == (2, 1e-5)
  found = precision.learned("bfloat16", top / "sft/bfloat16")
  rows = writer.read(top / "sft/bfloat16")
  assert found["loss_first"] == rows[0]["loss/cross_entropy"]
  assert found["held_out"] == rows[1]["eval/cross_entropy"]
  assert found["held_out"] < found["held_out_first"]


def test_what_is_finished_is_written(top):
  found = precision.write(RUNS, CONFIGS, TUNING, top)
  assert json.loads((top / "precision.json").read_text()) == found
  assert len(found["rl"]) == 2 and len(found["sft"]) == 1
  assert found["sft_loss_apart"] is None  # its other half is missing
  assert len((top / "precision.png").read_bytes()) > 5000
  assert "nearest" in precision.table(found)


def test_how_far_apart():
  rows = [{"form": "float32", "loss": 2.0}, {"form": "bfloat16", "loss": 1.98}]
  assert precision.apart(rows, "loss") == pytest.approx(0.01)


def test_runs_by_their_text():
  assert precision.runs_of(["3e-6:200:float32+nearest"]) == [
      Run("float32", 3e-6, 200), Run("nearest", 3e-6, 200)]
  for text in ("3e-6:200", "3e-6:200:float16", "3e-6:x:float32"):
    with pytest.raises(ValueError, match="LR:UPDATES:FORM"):
      precision.runs_of([text])
  assert set(FORMS) == {"float32", "bfloat16", "stochastic", "nearest"}
