"""--help shows the values that a run takes."""

import pathlib

import pytest

from tests.experiments import helps

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "experiments").rglob("*.py")
    if "flagset.define(" in path.read_text() and path.stem not in
    ("flagset", "start", "common"))


@pytest.fixture(scope="module")
def shown():
  return helps.helps(MODULES)


def test_every_default_in_help_is_what_is_taken(shown):
  assert {"experiments.train_grpo", "experiments.train_sft",
          "experiments.compile_ahead", "experiments.pretrain",
          "experiments.sample", "experiments.evaluate"} <= set(shown)
  wrong = {f"{module} --{name}": pair for module, found in shown.items()
           for name, pair in found.items() if pair[0] != pair[1]}
  assert not wrong


@pytest.mark.parametrize("module,flag,value", [
    ("train_grpo", "policy.kl_beta", "0.001"),
    ("train_grpo", "optimizer.lr", "0.0001"),
    ("train_grpo", "eval.temperature", "1.0"),
    ("train_sft", "optimizer.schedule", "cosine"),
    ("sample", "temperature", "0.6"),
    ("compile_ahead", "compute.remat", "full"),
    ("compile_ahead", "optimizer.lr", "3e-06"),
    ("evaluate", "temperature", "0.6"),
])
def test_the_outer_default_counts(shown, module, flag, value):
  """Of nested dataclasses and of bases that an experiment brings."""
  assert shown[f"experiments.{module}"][flag][0] == value


def test_a_recipe_shows_in_help():
  (found,) = helps.helps(
      ["experiments.train_grpo"], "--policy.clip_low=0.1", "--init=hf:any",
      "--recipe=dapo").values()
  assert found["policy.clip_high"] == ["0.28", "0.28"]
  assert found["policy.clip_low"] == ["0.2", "0.1"]  # typed
