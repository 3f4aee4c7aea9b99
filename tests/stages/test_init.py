"""Which checkpoint `orbax:DIR` names, and that a run keeps to it."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.checkpoint import fingerprints, inits, retention
from r1jax.core import io
from r1jax.models.compute import Compute
from r1jax.report import workdir as workdir_lib
from r1jax.stages import sft, weights
from r1jax.training.lora import LoraConfig
from tests.stages import cases
from tests.stages.test_sft import CONFIG, examples  # noqa: F401 - a fixture


def train(workdir, rows, init, steps, base=None, **changes):
  """`init` as experiments keep it; its weights are `base` or loaded."""
  base = base or weights.load(init, Compute(), jax.random.key(0))
  settings = {"init": init}
  if changes.get("lora"):
    settings |= {"parameters": weights.fingerprint(base),
                 weights.ROUNDED: weights.fingerprint(base, rounded=True)}
  trained, held_out = rows
  return sft.run(
      dataclasses.replace(CONFIG, steps=steps, **changes),
      weights.Handover.copied(base), cases.tokenizer(), trained, workdir,
      held_out=held_out, settings=settings)


@pytest.fixture(scope="module")
def base(tmp_path_factory, examples):  # noqa: F811
  """A run of 4 updates, which keeps steps 2 and 4, and the rows it saw."""
  folder = tmp_path_factory.mktemp("init") / "base"
  train(folder, examples, "random:tiny", 4, cases.policy(cases.DENSE))
  return folder, examples


@pytest.mark.parametrize("what,want", [
    ("runs/a", ("runs/a", "")), ("runs/a@12", ("runs/a", "12")),
    ("a@b/c@best", ("a@b/c", "best")), ("runs/a@home", ("runs/a@home", "")),
    ("gs://b/a@3", ("gs://b/a", "3")), ("@3", ("@3", ""))])
def test_a_step_is_told_from_a_name(what, want):
  assert workdir_lib.named(what) == want


def test_a_name_is_frozen_to_its_step(base):
  folder, _ = base
  init = f"orbax:{folder}"
  assert inits.frozen(init) == f"{init}@4"
  scores = {step: retention.metrics(folder / "checkpoints", step)[
      "eval/cross_entropy"] for step in (2, 4)}
  best = min(scores, key=scores.get)
  assert inits.frozen(f"{init}@best") == f"{init}@{best}"
  # What a run began with stays, as long as it is asked for by the same name.
  assert inits.frozen(init, f"{init}@2") == f"{init}@2"
  assert inits.frozen(f"{init}@4", f"{init}@2") == f"{init}@4"
  assert inits.frozen(init, "orbax:elsewhere@2") == f"{init}@4"
  for other in ("base", "hf:DIR", "file:a@3"):
    assert inits.frozen(other, f"{init}@2") == other


def test_each_checkpoint_can_be_loaded_by_its_step(base):
  folder, _ = base
  one, two, newest = (
      weights.load(f"orbax:{folder}{at}", Compute(), None).params["embed"]
      for at in ("@2", "@4", ""))
  np.testing.assert_array_equal(two, newest)
  assert (one != two).any()
  assert weights.config_of(f"orbax:{folder}@2").vocab_size == 512
  assert weights.tokenizer_of(f"orbax:{folder}@2") == folder / "tokenizer"


def test_what_is_not_there_is_named(base, tmp_path):
  folder, _ = base
  with pytest.raises(ValueError, match="no checkpoint of step 3;"
                                       " it has those of 2, 4"):
    weights.load(f"orbax:{folder}@3", Compute(), None)
  io.write_json(tmp_path / "config.json", {"config": {}})
  with pytest.raises(ValueError, match="has no checkpoint yet"):
    inits.frozen(f"orbax:{tmp_path}")
  (tmp_path / "checkpoints/7").mkdir(parents=True)
  with pytest.raises(ValueError, match="@best: none of its checkpoints has been"
                                       " evaluated; give .*@STEP with one"):
    inits.frozen(f"orbax:{tmp_path}@best")
  with pytest.raises(ValueError, match="nowhere/config.json does not exist"):
    inits.frozen("orbax:nowhere@best")


def test_an_adapter_keeps_to_the_parameters_that_it_adapts(base, tmp_path):
  """Its base goes on, is exchanged, and is lost."""
  folder, rows = base
  lora, init = LoraConfig(rank=2), f"orbax:{folder}@2"
  run = tmp_path / "run"
  trained = train(run, rows, init, 2, lora=lora)
  cases.same(weights.load(f"orbax:{run}", Compute(), None).params,
             trained.params)
  # Another step's parameters under the same name: as if made anew.
  settings = io.read_json(run / "config.json")
  changed = settings["config"] | {"init": f"orbax:{folder}@4"}
  io.write_json(run / "config.json", settings | {"config": changed})
  with pytest.raises(ValueError, match="was trained on orbax:.*@4, whose"
                                       " parameters have changed since"):
    weights.load(f"orbax:{run}", Compute(), None)
  # In other dtypes than it was trained in, too, which hid it.
  for compute in (Compute(dtype="bfloat16"), Compute(param_dtype="bfloat16")):
    with pytest.raises(ValueError, match="parameters have changed since"):
      weights.load(f"orbax:{run}", compute, None, computing=True)
    io.write_json(run / "config.json", settings)
    weights.load(f"orbax:{run}", compute, None, computing=True)
    io.write_json(run / "config.json", settings | {"config": changed})
  changed["init"] = f"orbax:{folder}@1"
  io.write_json(run / "config.json", settings | {"config": changed})
  with pytest.raises(ValueError, match="no checkpoint of step 1"):
    weights.load(f"orbax:{run}", Compute(), None)


def test_a_run_of_all_parameters_goes_on_without_its_first_ones(base, tmp_path):
  folder, rows = base
  run = tmp_path / "run"
  gone = f"orbax:{folder}@1"
  assert inits.or_own(gone, run) == gone  # it has nothing of its own yet
  train(run, rows, f"orbax:{folder}@2", 2)
  assert inits.or_own(gone, run) == f"orbax:{run}"
  assert inits.or_own(f"orbax:{folder}@2", run) == f"orbax:{folder}@2"
  assert inits.or_own("base", run) == "base"


def test_a_pipeline_sees_the_run_behind_a_step(base):
  folder, _ = base
  name = f"orbax:{folder}@2"
  assert list(fingerprints.named(name, str)) == [name]
  assert fingerprints.of(name) == fingerprints.of(f"orbax:{folder}") is not None
