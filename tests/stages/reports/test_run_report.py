"""Reports on several runs: models side by side, training."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from r1jax.core import io
from r1jax.core.prompt import Prompt, ask
from r1jax.evals import estimators, published
from r1jax.report import rollouts
from r1jax.report.tables import Cell
from r1jax.stages.reports import comparison, run_report, training_report
from r1jax.stages.reports import runs as runs_lib
from tests.stages import folders

HOSTILE = "<script>alert(1)</script> | **b**"
MODELS = {"zero": dict(seed=1, reason=0.3), "r1": dict(seed=2, reason=0.95),
          "twin": dict(seed=3, reason=0.9)}


def prompts(counts):
  made = []
  for source, count in counts.items():
    for i in range(count):
      made.append(Prompt(
          id=len(made), domain="math", source=source, verifier="math",
          messages=ask(f"{source} {i}? {HOSTILE}"), reference=str(i),
          language="en", metadata={
              "level": 1 + i % 3, "topic": ("Algebra", "Geometry")[i % 2]}))
  return made


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  for name, model in MODELS.items():
    counts = {"math_500": 24, "cmath": 6}
    if name == "twin":
      del counts["cmath"]
    folders.evaluation(folder / name, prompts(counts), **model)
    io.write_json(folder / name / "result.json", {
        "split": "test", "left_out": 3 * (name == "r1"),
        "config": {"temperature": 0.6 if name != "twin" else 1.0}})
  folders.evaluation(folder / "broken", prompts({"math_500": 4}))
  file = folder / "broken" / "generations.jsonl.gz"
  file.write_bytes(file.read_bytes()[:-20])
  return folder


@pytest.fixture(scope="module")
def read(evaluated):
  return {name: runs_lib.read(evaluated / name) for name in MODELS}


def texts(table):
  return [[cell if isinstance(cell, str) else cell.text for cell in row]
          for row in table[2]]


def test_models_side_by_side(evaluated, read):
  table = comparison.benchmarks(read)
  assert table[1] == ["benchmark", "metric", "zero", "r1", "twin"]
  maths, math, other, cmath = table[2]
  assert (maths[0].text, other[0].text) == ("Mathematics", "Other")
  rows = rollouts.read_file(evaluated / "r1" / "generations.jsonl.gz")
  right = np.array([row["parts"]["accuracy"] for row in rows
                    if row["source"] == "math_500"]).reshape(24, folders.G)
  found = estimators.pass_at_1(right)
  digits = 1 if found.high - found.low < 0.1 else 0
  assert math[3].text == (
      f"{100 * found.mean:.1f} ({100 * found.low:.{digits}f}–"
      f"{100 * found.high:.{digits}f})")
  # It beats the first by far, and its twin by no more than chance.
  assert not any(cell.bold for cell in math[2:])
  assert cmath[3].bold and not cmath[2].bold
  assert cmath[4].text == "–" and "has math_500" in cmath[4].reason


def test_bold_is_tested_on_the_same_problems(read):
  pair = {name: read[name] for name in ("zero", "r1")}
  math = comparison.benchmarks(pair)[2][1]
  assert [cell.bold for cell in math[2:]] == [False, True]
  _, header, rows = comparison.differences(pair, "zero")
  assert header == ["benchmark", "r1"]
  a, b = (run.problems["math_500"].correct_QG.mean(1) for run in (
      read["r1"], read["zero"]))
  value = 100 * (a - b).mean()
  assert rows[0][1].text.startswith(f"{value:+.1f} (")
  assert rows[0][1].bold and "p < 0.001, n = 24" in rows[0][1].text
  backwards = comparison.differences(pair, "r1")[2][0][1]
  assert backwards.text.startswith(f"{-value:+.1f} (")


def test_several_samples_and_parts(read):
  _, header, rows = comparison.several(read)
  assert [row[:2] for row in rows] == [
      ["MATH-500", "cons@4"], ["MATH-500", "pass@4"], ["cmath", "cons@4"],
      ["cmath", "pass@4"]]
  problems = read["zero"].problems["math_500"]
  majority = estimators.maj_at_k(
      [row["answers"] for row in problems.rows], problems.correct_QG)
  assert rows[0][2].text.startswith(f"{100 * majority:.1f} (")
  _, _, parts = comparison.parts(read)
  assert [row[0] for row in parts[:5]] == [
      "MATH-500, level 1", "MATH-500, level 2", "MATH-500, level 3",
      "MATH-500, topic Algebra", "MATH-500, topic Geometry"]
  level = [row["level"] == 1 for row in problems.rows]
  mean = 100 * problems.correct_QG[level].mean()
  assert parts[0][1].text.startswith(f"{mean:.1f} (")


def test_published_figures_are_marked(read):
  _, header, rows = comparison.benchmarks(read, ["R1", "Qwen-7B"])
  assert [cell for cell in header if isinstance(cell, Cell)] == [
      Cell("R1, published", published=True),
      Cell("Qwen-7B, published", published=True)]
  by_name = {(row[0].strip(), row[1]): row for row in rows
             if isinstance(row[0], str)}
  assert by_name["MATH-500", "pass@1"][5:] == [
      Cell("97.3", published=True), Cell("92.8", published=True)]
  # Of the paper's rows that nobody ran there is a reason.
  assert by_name["MMLU", "pass@1"][2].text == "–"
  assert by_name["MMLU", "pass@1"][2].reason
  assert by_name["MMLU", "pass@1"][6].reason == "the paper does not print it"
  assert not any(cell.bold for row in by_name.values() for cell in row[5:])


@pytest.mark.parametrize("table,model,row,value", [
    ("benchmarks", "R1", "aime_2024", "79.8"),
    ("benchmarks", "R1", "math_500", "97.3"),
    ("benchmarks", "R1-Zero", "gpqa_diamond", "75.8"),
    ("benchmarks", "Dev1", "ifeval", "71.7"),
    ("benchmarks", "R1", "codeforces_rating", "2029"),
    ("distilled", "Qwen-32B", "aime_cons", "83.3"),
    ("safety", "o1", "jailbreak/rejected", "79.8"),
    ("safety", "DeepSeek-V3", "overall/unsafe", "5.3")])
def test_the_published_table(table, model, row, value):
  assert published.of(table, model, row).value == value


def test_published_models_by_name():
  assert published.of(published.SAFETY, "R1", "harmbench") == ("89.3", "35.0")
  assert published.choose("R1, o1-mini") == ["R1", "o1-mini"]
  assert published.choose("") == [] and "Llama-70B" in published.choose("all")
  with pytest.raises(ValueError, match="R2; choose"):
    published.choose("R2")


def test_a_suite_has_figures_of_its_own(tmp_path):
  for name, rating, seed in (("zero", 1400.0, 1), ("r1", 2000.0, 2)):
    for benchmark, numbers in (
        ("codeforces", [
            dict(name="rating", value=rating, low=rating - 90,
                 high=rating + 90, count=8, share=False, note=""),
            dict(name="percentile", value=None, low=None, high=None, count=8,
                 share=True, note="beyond the paper's pairs")]),
        ("drop", [dict(name="F1", value=0.75, low=0.7, high=0.8, count=8,
                       share=True, note="")])):
      folder = tmp_path / name / benchmark
      folders.evaluation(folder, prompts({benchmark: 8}), seed=seed)
      io.write_json(folder / "result.json", {
          "name": benchmark, "title": benchmark, "numbers": numbers})
    io.write_json(tmp_path / name / "results.json", {
        "missing": {"mmlu": "mmlu needs --benchmarks_dir=DIR"}})
  runs = {name: runs_lib.read(tmp_path / name) for name in ("zero", "r1")}
  table = comparison.benchmarks(runs, ["R1"])
  rows = {(row[0].strip(), row[1]): row[2:] for row in table[2]
          if isinstance(row[0], str)}
  assert [cell.text for cell in rows["Codeforces", "rating"]] == [
      "1400 (1310–1490)", "2000 (1910–2090)", "2029"]
  assert rows["Codeforces", "percentile"][0].reason == (
      "beyond the paper's pairs")
  assert rows["DROP", "F1"][0] == Cell("75.0 (70–80)")
  assert ("Codeforces", "pass@1") not in rows
  assert "--benchmarks_dir=DIR" in rows["MMLU", "pass@1"][1].reason
  # Not means over problems: nothing to test.
  assert not any(cell.bold for of in rows.values() for cell in of)


def test_safety_with_and_without_risk_control(tmp_path):
  def sets(score, unsafe):
    return {"harmbench": {"score": {"value": score, "low": score - 0.1,
                                    "high": score + 0.1},
                          "over_refusal": None,
                          "categories": {"illegal": {
                              "unsafe": {"value": unsafe}, "rejected": None},
                              "missing": ["x"]}}}

  io.write_json(tmp_path / "r1/result.json", {
      "sets": sets(0.9, 0.05), "average": {"score": 0.9},
      "without_control": {"sets": sets(0.4, 0.5), "average": {"score": 0.4}}})
  io.write_json(tmp_path / "zero/result.json", {
      "sets": {}, "average": {"score": None}})
  runs = {name: runs_lib.read(tmp_path / name) for name in ("r1", "zero")}
  _, header, rows = comparison.safety(runs, ["R1"])
  cells = {row[0]: row[1:] for row in rows}
  assert cells["HarmBench"][0].text == "90.0 [80–100] (40.0)"
  assert cells["HarmBench"][2] == Cell("89.3 (35.0)", published=True)
  assert cells["average of the six"][0].text == "90.0 (40.0)"
  assert cells["illegal, unsafe"][0].text == "5.0 (50.0)"
  assert "not asked" in cells["HarmBench"][1].reason
  assert cells["BBQ"][2].text == "96.6"


def test_the_pages(evaluated, tmp_path, capsys):
  path = run_report.write(
      tmp_path, {name: evaluated / name for name in (*MODELS, "broken")},
      shown=["R1"], title="A <b>")
  page, text = path.read_text(), (tmp_path / "report.md").read_text()
  assert "A &lt;b&gt;" in page and "<script>" not in page
  assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
  assert page.count("data:image/png") == 3
  assert {file.name for file in (tmp_path / "figures").iterdir()} == {
      "models.png", "parts.png", "tokens.png"}
  assert re.search(r"<b>\d+\.\d \(", page) and '<td class="published">' in page
  for found in (page, text):
    assert "broken cannot be read" in found.replace("\\", "")
    assert "3 questions were too long for r1" in found
    assert "temperature differs" in found
  assert "# A \\<b\\>" in text and "**" in text and "*97.3*" in text
  assert "](figures/models.png)" in text
  # A question is no markup, and every row has as many cells as the header.
  for block in text.split("\n\n"):
    if block.startswith("|"):
      assert len({len(re.findall(r"(?<!\\)\|", line))
                  for line in block.splitlines()}) == 1
  out = capsys.readouterr().out
  assert "Differences from zero" in out and "*" in out


def test_folders_of_folders_and_what_is_amiss(evaluated, tmp_path):
  with pytest.raises(ValueError, match="several evaluations of math_500"):
    runs_lib.read(evaluated)
  folders.evaluation(tmp_path / "m/one", prompts({"math_500": 4}))
  folders.evaluation(tmp_path / "m/two", prompts({"cmath": 4}))
  assert set(runs_lib.read(tmp_path / "m").problems) == {"math_500", "cmath"}
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="has neither evaluation nor training"):
    runs_lib.read(tmp_path / "empty")
  for text, message in (("nowhere", "nowhere is not a folder"),
                        ("", "no run is given"),
                        (f"{tmp_path},x={tmp_path},{tmp_path}", "two runs")):
    with pytest.raises(ValueError, match=message):
      runs_lib.parse(text)
  with pytest.raises(ValueError, match="against='b' is not a run"):
    run_report.write(tmp_path / "o", {"a": tmp_path / "m"}, against="b")


def training(folder, config, row, steps=20, **files):
  io.write_json(folder / "config.json", {
      "config": {"rows": 4, "row_length": 8, "init": "base"} | config,
      "versions": {"jax": "1"}})
  (folder / "metrics.jsonl").write_text("".join(
      json.dumps({"step": step} | row(step)) + "\n"
      for step in range(1, steps + 1)))
  for name, value in files.items():
    io.write_json(folder / f"{name}.json", value)


def test_reports_of_training(tmp_path):
  training(tmp_path / "sft", {"template": "chat", "data": {"a/b.jsonl": "1"}},
           lambda step: {"loss/cross_entropy": 4 / step, "skipped": 0.0,
                         "grad_norm": 1.0} | (
               {"eval/cross_entropy": 1.0 + 1 / step} if step % 5 == 0 else {}),
           cost={"seconds": 1234.0, "tokens": 10, "chips": 1})
  training(tmp_path / "base", {"corpus": {"x": 1}},
           lambda step: {"loss/cross_entropy": 3.0, "skipped": 1.0})
  training(tmp_path / "helpful", {"head": "x", "template": "chat"},
           lambda step: {"loss": 0.5, "accuracy": 0.75, "eval/accuracy": 0.8},
           reward={"validation": {
               "accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9,
               "count": 99}})
  training(tmp_path / "rl", {"questions": 2, "samples": 3, "data": "arith"},
           lambda step: {"reward/combined": step / 10, "eval/pass1": 0.5})
  page = training_report.write(tmp_path / "sft").read_text()
  assert "SFT: sft" in page and "2.000 → 1.050" not in page
  assert "1.200 → 1.050" in page and "b.jsonl" in page and "1,234" in page
  assert page.count("data:image/png") == 1
  runs = {name: runs_lib.read(tmp_path / name)
          for name in ("sft", "base", "helpful", "rl")}
  table, models = training_report.tables(runs)
  assert [row[1] for row in texts(table)] == [
      "SFT", "pre-training", "reward model", "RL"]
  assert texts(table)[0][7:9] == ["3.000", f"{(4 / 19 + 4 / 20) / 2:.3f}"]
  assert texts(table)[1][-2:] == ["–", "20"]
  assert texts(table)[3][5] == "2 questions × 3"
  assert models[2][0][:2] == ["helpful", "80.0 %"]
  drawn = training_report.draw(tmp_path, runs)
  assert [caption for caption, _ in drawn] == [
      "Pre-training", "SFT", "Reward model", "RL"]
  with pytest.raises(ValueError, match="has neither evaluation nor training"):
    training_report.write(tmp_path)
  (tmp_path / "stopped").mkdir()
  training_report.tell(tmp_path / "stopped")
  assert not list((tmp_path / "stopped").iterdir())
