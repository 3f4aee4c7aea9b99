from __future__ import annotations

import json
import math

import matplotlib.image
import numpy as np
import pytest

from r1jax.core import io
from r1jax.evals import claims as claims_lib
from r1jax.stages import reward_weights
from r1jax.stages.reports import r1_cells, r1_report
from tests.stages import folders

MODELS = {
    "base": dict(seed=1, reason=0.1, keep=0.9, follow=0.2, utility=0.3,
                 safe=0.2, tokens=10),
    "zero": dict(seed=2, reason=0.8, keep=0.6, follow=0.2, utility=0.3,
                 safe=0.3, tokens=40),
    "dev1": dict(seed=3, reason=0.5, keep=0.97, follow=0.7, utility=0.5,
                 safe=0.3),
    "dev2": dict(seed=4, reason=0.9, keep=1.0, follow=0.7, utility=0.5,
                 safe=0.3),
    "dev3": dict(seed=5, reason=0.9, keep=1.0, follow=0.75, utility=0.6,
                 safe=0.4),
    "r1": dict(seed=6, reason=0.95, keep=1.0, follow=0.9, utility=0.9,
               safe=0.95),
    "dev2_nolang": dict(seed=7, reason=0.9, keep=0.6),
    "hacked": dict(seed=8, reason=0.5, utility=0.3),
    "student_sft_qwen": dict(seed=9, reason=0.9),
    "student_rl": dict(seed=10, reason=0.3),
}
SECTION = {
    "models": {name: f"eval_{name}" for name in MODELS},
    "runs": {name: name for name in ("zero", "dev2", "dev2_nolang", "hacked")},
    "reward_models": {"helpful": "helpful", "safety": "safety"},
    "safety": {"r1": "safe_r1"}}


def metrics(step):
  return {"rollout/length_mean": 20.0 + step, "policy/kl": 1e-4 * step,
          "reward/helpful": 0.1 * step}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("r1")
  for name, model in MODELS.items():
    folders.evaluation(folder / f"eval_{name}", **model)
  for name in SECTION["runs"]:
    folders.run(folder / name, (0, 5, 10), metrics,
                reason=lambda share: 0.2 + 0.6 * share,
                keep=lambda share, name=name: 1 - 0.5 * share * (
                    name == "dev2_nolang"),
                utility=lambda share: 0.9 - 0.6 * share)
  (folder / "zero/config.json").write_text(
      json.dumps({"config": {}, "versions": {"jax": "1"}}))
  io.write_json(folder / "helpful" / reward_weights.ABOUT, {
      "validation": {"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9,
                     "count": 99, "length_correlation": 0.1}})
  io.write_json(folder / "zero/done.json", {
      "seconds": 90.0, "cost": {"chips": 1, "chip_hours": 0.025,
                                "dollars": 0.05}})
  io.write_json(folder / "dev2/done.json", {"seconds": 30.0})
  return folder


@pytest.fixture(scope="module")
def report(workdir):
  return r1_report.write(workdir, SECTION)


def test_everything_is_there(workdir, report):
  page = report.read_text()
  assert report == workdir / "report.html"
  for text in ("R1-Zero", "cons@4", "Distillation", "Ablations",
               "Cost by stage", "must hold", "Reward models", "80.0 %",
               "Jailbreaks", "R1: no "):
    assert text in page
  # What models wrote is text.
  assert "&lt;b&gt;" in page and "it is <b>" not in page
  assert page.count("data:image/png") == 4
  for name in ("models", "evolution", "language", "hacking"):
    image = matplotlib.image.imread(workdir / "figures" / f"{name}.png")
    assert np.mean(image[..., :3].min(-1) < 0.9) > 0.01


def test_summary(workdir, report):
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["minutes"] == 2.0
  assert set(summary["models"]) == set(MODELS) and not summary["missing"]
  reasoning = summary["models"]["zero"]["reasoning"]
  rows = folders.rollouts.read_file(
      workdir / "eval_zero" / "generations.jsonl.gz")
  right = [row["parts"]["accuracy"] for row in rows if row["source"] == "sums"]
  assert math.isclose(reasoning["value"], np.mean(right))
  assert reasoning["low"] < reasoning["value"] < reasoning["high"]
  assert reasoning["count"] == 12
  np.testing.assert_allclose(summary["models"]["dev3"]["win"]["value"], 0.5)


def test_claims(workdir, report):
  claims = json.loads((workdir / "claims.json").read_text())
  assert len(claims) == len(claims_lib.claims())
  assert all(set(c) == {"claim", "verdict", "must", "numbers"} for c in claims)
  must = [claim for claim in claims if claim["must"]]
  assert len(must) == 7
  # Of chances far apart; only the margin of three points asks for more data.
  assert [claim["verdict"] for claim in must] == [
      "holds", "holds", "holds", "not decided", "holds", "holds", "holds"]


def test_the_same_folders_give_the_same_numbers(workdir, report, monkeypatch):
  files = [workdir / name for name in ("claims.json", "summary.json")]
  before = [file.read_bytes() for file in files]
  monkeypatch.setattr(r1_report, "draw", lambda *_: ([], []))
  r1_report.write(workdir, SECTION)
  assert before == [file.read_bytes() for file in files]


def test_costs(tmp_path):
  assert r1_cells.costs(tmp_path)[1] == []
  assert r1_cells.costs_by_part(tmp_path)[1] == []
  # The stages' own records, as far as they go.
  io.write_json(tmp_path / "b/done.json", {"seconds": 90.0})
  io.write_json(tmp_path / "a/cost.json", {
      "chips": 2, "seconds": 30.0, "chip_hours": 0.5, "flops": 1e12})
  header, cells = r1_cells.costs(tmp_path)
  assert header == ["stage", "chips", "seconds", "chip-hours", "FLOPs"]
  assert cells == [["a", "2", "30", "0.5", "1.00e+12"],
                   ["b", "-", "90", "-", "-"],
                   ["total", "", "120", "0.5", "1.00e+12"]]
  # Of the pipeline: its order, its price.
  io.write_json(tmp_path / "cost.json", {
      "price": 4.0, "parts": {"R1-Zero": 3.0, "R1": 0.5}, "stages": {
          "z": {"chip_hours": 3.0}, "a": {"chip_hours": 0.5}}})
  assert r1_cells.costs(tmp_path) == (
      ["stage", "chip-hours", "dollars"],
      [["z", "3", "12.00"], ["a", "0.5", "2.00"], ["total", "3.5", "14.00"]])
  assert r1_cells.costs_by_part(tmp_path) == (
      ["", "R1-Zero", "R1", "total"],
      [["chip-hours", "3", "0.5", "3.5"],
       ["dollars", "12.00", "2.00", "14.00"]])


def test_nothing_is_there(tmp_path, capsys):
  path = r1_report.write(tmp_path, SECTION)
  claims = json.loads((tmp_path / "claims.json").read_text())
  assert {claim["verdict"] for claim in claims} == {"not decided"}
  assert "eval_zero" in claims[0]["numbers"][0]["reason"]
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["minutes"] is None and not summary["models"]
  assert set(summary["missing"]) == set(MODELS)
  assert "eval_r1" in path.read_text()
  assert "not decided" in capsys.readouterr().out


def test_evaluations_that_differ_are_named(tmp_path):
  for name, temperature in (("base", 0.6), ("zero", 1.0)):
    folders.evaluation(tmp_path / name, folders.prompts(4, 0, 0))
    io.write_json(tmp_path / name / "result.json", {
        "data": "sums", "split": "test", "left_out": int(temperature),
        "config": {"samples": 4, "temperature": temperature}})
  models = r1_report.read(tmp_path, {"base": "base", "zero": "zero"})
  assert models.notes == [
      "1 questions were too long for R1-Zero and are not in its figures.",
      "The evaluations differ in temperature: base 0.6, R1-Zero 1.0."]
  # The same question of each source and language, as both answer it.
  assert [(problem["question"], [name for name, _ in problem["steps"]])
          for problem in models.problems] == [
      ("sums 0?", ["base", "R1-Zero"]), ("sums 1?", ["base", "R1-Zero"])]


def test_a_damaged_evaluation_is_missing(tmp_path):
  folders.evaluation(tmp_path / "base", folders.prompts(4, 0, 0))
  file = tmp_path / "base" / "generations.jsonl.gz"
  file.write_bytes(file.read_bytes()[:-20])
  models = r1_report.read(tmp_path, {"base": "base"})
  assert not models.samples and "truncated or damaged" in models.missing["base"]


def test_a_section_with_a_wrong_key(tmp_path):
  with pytest.raises(ValueError, match="modells.*models"):
    r1_report.write(tmp_path, {"modells": {}})
