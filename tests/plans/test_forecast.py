"""Estimates of a plan against sums by hand."""

import numpy as np
import pytest

from r1jax.accounting import chips, flops
from r1jax.models import presets
from r1jax.plans import forecast
from r1jax.plans import plan as plan_lib
from r1jax.plans.plan import Stage

CFG = presets.TINY
PLAN = """
[defaults]
init = "random:tiny"

[estimate]
chip = "H800"
sampling = 0.05
training = 0.5
price = 2.0

[stages.zero]
run = "train_grpo"
part = "first"
flags = {init = "{init}", steps = 3, questions = 2, samples = 4}
expect = {prompt = 5, length = 7}

[stages.data]
run = "rejection"
flags = {init = "orbax:{zero}", data = "a,b", split = "train[10:14]", \
samples = 3, max_new_tokens = 9}

[stages.unknown]
run = "world_dialogues"

[stages.student]
run = "train_sft"
part = "first"
flags = {init = "hf:{data_dir}/x", data = "{data}/sft.jsonl"}
expect = {rows = 10, tokens = 6}
"""


def plan_of(tmp_path, text=PLAN):
  path = tmp_path / "plan.toml"
  path.write_text(text)
  plan = plan_lib.read(path)
  return plan, plan.values(partly=True, seed=0, data_dir="", init="")


def amount(run, flags, **expect):
  stage = Stage(name="a", run=run, flags=flags, expect=expect)
  return forecast.amount(stage, flags, lambda init: CFG)


def passes(prompt, length):
  """Operations of a forward pass over prompt and answer, token by token."""
  return sum(flops.forward(CFG, n) for n in range(1, prompt + length + 1))


def decoding(prompt, length):
  return sum(flops.forward(CFG, n, absorbed=True)
             for n in range(prompt + 1, prompt + length + 1))


@pytest.mark.parametrize("extra,read", [
    ({}, 3 + 1),  # the update, the reference policy
    ({"policy.kl_beta": "0"}, 3),
    ({"minibatches": "4"}, 3 + 1 + 1),  # and the policy before the updates
    ({"epochs": "2", "policy.kl_beta": "0"}, 2 * 3 + 1)])
def test_reinforcement(extra, read):
  found = amount("train_grpo", {
      "steps": "3", "questions": "2", "samples": "4"} | extra,
      prompt=5, length=7)
  samples = 3 * 2 * 4
  assert found.samples == samples
  assert found.updates == 3 * int(extra.get("minibatches", 1)) * int(
      extra.get("epochs", 1))
  np.testing.assert_allclose(found.sampling, samples * decoding(5, 7), 1e-12)
  np.testing.assert_allclose(
      found.training, samples * read * passes(5, 7) + 3 * 2 * passes(5, 0),
      1e-12)


def test_a_teacher_reads_too():
  flags = {"steps": "3", "questions": "2", "samples": "4", "teacher": "base"}
  alone, taught = (amount(run, flags, prompt=5, length=7)
                   for run in ("train_grpo", "distill"))
  np.testing.assert_allclose(
      taught.training - alone.training, 24 * passes(5, 7), 1e-12)
  assert taught.tokens - alone.tokens == 24 * 12


def test_supervised_stages():
  sft = amount("train_sft", {"rows": "2", "row_length": "8", "epochs": "3"},
               rows=10, tokens=6)
  assert sft.tokens == 180 and sft.updates == 12  # of at most 16 tokens
  np.testing.assert_allclose(sft.training, 30 * 3 * passes(6, 0), 1e-12)
  pairs = amount("train_reward", {"rows": "4", "row_length": "8"},
                 rows=10, tokens=6)
  labels = amount("train_reward", {"rows": "4", "row_length": "8",
                                   "loss": "pointwise"}, rows=10, tokens=6)
  assert pairs.tokens == 2 * labels.tokens == 120
  assert amount("train_sft", {"steps": "5", "rows": "2", "row_length": "8"}
                ).tokens == 80
  assert amount("train_sft", {}) is None


def test_samples_of_questions():
  found = amount("label_pairs", {"policies": "orbax:a,orbax:b", "samples": "3"},
                 questions=4, prompt=5, length=7)
  assert found.samples == 4 * 2 * 3
  np.testing.assert_allclose(found.sampling, 24 * decoding(5, 7), 1e-12)
  sliced = amount("evaluate", {"data": "a,b", "split": "test[:10]"},
                  prompt=5, length=7)
  assert sliced.samples == 2 * 10 * 16
  assert amount("evaluate", {"split": "test"}) is None


def test_safety_asks_the_harmful_ones_again_in_jailbreaks():
  flags = {"jailbreaks": "world", "jailbreak_templates": "2", "samples": "3"}
  found = amount("evaluate_safety", flags, questions=10, harmful=4, prompt=5,
                 length=7)
  assert found.samples == (10 + 4 * 2) * 3
  np.testing.assert_allclose(found.sampling, 54 * decoding(5, 7), 1e-12)
  plain = amount("evaluate_safety", {}, questions=10, harmful=4, prompt=5,
                 length=7)
  assert plain.samples == 10
  # Of a slice, and without a count of harmful ones, all are.
  assert amount("evaluate_safety", {"jailbreaks": "world",
                                    "split": "test[:8]"}).samples == 16


def test_the_table_of_a_plan(tmp_path):
  plan, values = plan_of(tmp_path)
  rates = forecast.rates(plan)
  text = forecast.text(plan, plan.stages, lambda s: s.flags, values, rates)
  by_stage, by_part, left = text.split("\n\n")
  rows, parts = ({line.split()[0]: line.split() for line in lines.splitlines()}
                 for lines in (by_stage, by_part))
  peak = chips.CHIPS["H800"].flops
  hours = (24 * decoding(5, 7) / (peak * 0.05) + (
      24 * 4 * passes(5, 7) + 6 * passes(5, 0)) / (peak * 0.5)) / 3600
  assert rows["zero"] == [
      "zero", "-", "3", "24", f"{30 + 24 * (7 + 2 * 12)}",
      f"{24 * (decoding(5, 7) + 4 * passes(5, 7)) + 6 * passes(5, 0):.2e}",
      f"{hours:.3g}", f"{2 * hours:.2f}"]
  # By the sizes of what it starts from, though that is not there yet.
  assert rows["data"][:4] == ["data", "zero", "-", "24"]
  assert rows["unknown"] == ["unknown", *"-" * 7]
  assert rows["student"] == ["student", "data", *"-" * 6]  # sizes unknown
  assert parts["first"][1] == f"{hours:.3g}"
  assert "all" in rows and "total" in parts
  assert left == ("Not in the totals, since their models' folders are not"
                  " given: student")


def test_rates_of_ones_own(tmp_path):
  plan, _ = plan_of(tmp_path)
  other = forecast.rates(plan, "TPU v4", 0.5)
  assert other == (chips.CHIPS["TPU v4"].flops * 0.05,
                   chips.CHIPS["TPU v4"].flops * 0.5, 0.5)
  with pytest.raises(ValueError, match="chip='abacus' is not one of .*H100"):
    forecast.rates(plan, "abacus")
  measured, _ = plan_of(tmp_path, PLAN.replace(
      'chip = "H800"', "flops_per_s = 1e9"))
  assert forecast.rates(measured) == (5e7, 5e8, 2.0)


def test_a_model_is_found_through_the_stages(tmp_path):
  plan, values = plan_of(tmp_path)
  model = forecast.Models(plan, values)
  assert model("orbax:{data}") == presets.TINY
  assert model("base:student-qwen") == presets.STUDENT_QWEN
  assert model("base") == presets.BASE_ARITH
  with pytest.raises(forecast.Unknown):
    model("orbax:{student}")
  del values["init"]
  with pytest.raises(ValueError, match="give --init, or estimate.model"):
    model("{init}")
