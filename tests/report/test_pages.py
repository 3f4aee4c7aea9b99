import gzip
import json
import math
from html import parser

import matplotlib.image
import numpy as np
import pytest

from r1jax.core import io
from r1jax.report import figures, html, rollouts, tables

HOSTILE = (
    "<script>alert(1)</script></pre><img src=x onerror=alert(2)>"
    "\"'&{{ 7*7 }}{% raw %}\ud800\x00 <think>2+2</think><answer>4</answer>")


def metric_rows(n=60):
  rng = np.random.default_rng(0)
  return [{
      "step": step, "rollout/length_mean": 20 + step + rng.normal(),
      "reward/accuracy": step / n, "reward/format": 1.0,
      "policy/entropy": 1 - step / n,
      "policy/kl": None if step == 7 else 0.01 * step,
  } for step in range(1, n + 1)]


def eval_rows():
  return [{"step": s, "pass1": p, "pass1_low": p - 0.05, "pass1_high": p + 0.05,
           "maj": min(1.0, p + 0.1), "k": 16}
          for s, p in ((0, 0.1), (30, 0.4), (60, 0.8))]


def draw(folder):
  metrics = metric_rows()
  figures.learning_curves(
      metrics, eval_rows(), {"pass1": 0.1}, folder / "learning.png")
  figures.reward_curves(metrics, folder / "rewards.png")
  figures.entropy_and_kl(metrics, folder / "entropy.png")
  levels = [{"step": s, "level": level, "pass1": 0.5 / level}
            for s in (0, 30, 60) for level in (1, 2, 3)]
  figures.by_level(levels, folder / "levels.png")
  figures.decodings(
      {name: {way: {"pass1": p, "interval": (p - 0.05, p + 0.05)}
              for way in ("T = 1", "greedy")}
       for name, p in (("base", 0.1), ("R1-Zero", 0.9))},
      folder / "decodings.png")
  figures.outcomes(
      [{"worked": worked, "format_weight": weight, "seed": 0,
        "accuracy": worked, "curve": [
            {"step": s, "accuracy": worked, "format": 0.9} for s in (1, 2)]}
       for worked, weight in ((0.1, 0.2), (0.1, 1.0), (0.06, 1.0))],
      folder / "outcomes.png")
  curve = [{"step": s, "moved": s / 9, "computing_share": s / 9, "gap": 1e-7,
            "gap_max": 1e-6, "combined": 1.0, "held_out": 3 - s}
           for s in (1, 2)]
  figures.precision(
      [{"form": form, "lr": 3e-6, "curve": curve}
       for form in ("float32", "nearest")],
      [{"form": "float32", "curve": curve}], folder / "precision.png")
  return sorted(folder.glob("*.png"))


def test_figures_are_written_and_not_empty(tmp_path):
  paths = draw(tmp_path)
  assert [p.stem for p in paths] == [
      "decodings", "entropy", "learning", "levels", "outcomes", "precision",
      "rewards"]
  for path in paths:
    image = matplotlib.image.imread(path)
    assert image.shape[1] >= 900
    assert np.mean(image[..., :3].min(-1) < 0.9) > 0.01  # Ink on the page.


def test_figures_of_a_run_that_has_just_begun(tmp_path):
  figures.learning_curves([], [], {"pass1": 0.1}, tmp_path / "a.png")
  figures.reward_curves(metric_rows(1), tmp_path / "b.png")
  figures.entropy_and_kl(metric_rows(1), tmp_path / "c.png")
  figures.by_level([], tmp_path / "d.png")
  figures.decodings({"base": {"greedy": {"pass1": 0.1}}}, tmp_path / "e.png")
  figures.precision([], [], tmp_path / "f.png")
  assert len(list(tmp_path.glob("*.png"))) == 6


def row(prompt_id, text, **more):
  return {
      "prompt_id": prompt_id, "prompt": f"What is {prompt_id}+2?",
      "completion": text, "reference": "4", "reward": 1.0,
      "rewards": {"accuracy": 0.0, "format": 1.0}, "advantage": -0.5,
      "logp_diff": 1e-7} | more


def test_rollouts_round_trip(tmp_path):
  rows = [row(3, HOSTILE), row(4, "ünïcode\n\u2028", advantage=math.nan,
                              logp_diff=np.float32(0.5))]
  rollouts.write(tmp_path, 123, rows)
  path = tmp_path / "rollouts/step_000123.jsonl.gz"
  before = path.read_bytes()
  got = rollouts.read(tmp_path, 123)
  assert got[0] == rows[0]
  assert got[1]["advantage"] is None and got[1]["logp_diff"] == 0.5
  assert got[1]["completion"] == "ünïcode\n\u2028"
  rollouts.write(tmp_path, 123, rows)
  assert path.read_bytes() == before
  assert rollouts.steps(tmp_path) == [123]
  assert rollouts.steps(tmp_path / "none") == []
  with pytest.raises(ValueError, match=r"does not exist.*\[123\]"):
    rollouts.read(tmp_path, 5)
  path.write_bytes(before[:-9])
  with pytest.raises(ValueError, match="step_000123.jsonl.gz is truncated"):
    rollouts.read(tmp_path, 123)


def evaluated(path, step, ids, samples=1, **more):
  """An evaluation's file, as `evals.runner` writes it."""
  lines = [json.dumps({
      "id": i, "sample": s, "completion": f"{i} at {step}, sample {s}",
      "question": f"What is {i}+2?", "reference": "4",
      "parts": {"accuracy": 0.0, "format": 1.0}, "length": 7} | more)
           for i in ids for s in range(samples)]
  file = rollouts.path(path, step, rollouts.EVALUATIONS)
  io.write_bytes(file, gzip.compress("\n".join(lines).encode()))


def test_select_takes_problems_of_every_evaluation(tmp_path):
  for step, ids in ((0, [1, 2, 3, 4, 5]), (10, [9]), (20, [5, 4, 2, 3]),
                    (30, [8]), (40, [3, 2, 4, 6, 5])):
    evaluated(tmp_path, step, ids, samples=3)
  picked = html.select(tmp_path, problems=2, samples=2)
  assert [p["question"] for p in picked] == ["What is 2+2?", "What is 4+2?"]
  assert [step for step, _ in picked[0]["steps"]] == [0, 20, 40]
  assert [r["completion"] for r in picked[0]["steps"][1][1]] == [
      "2 at 20, sample 0", "2 at 20, sample 1"]
  assert not html.select(tmp_path / "none")


def test_hostile_text_stays_text(tmp_path):
  png = draw(tmp_path)[0]
  evaluated(tmp_path, 0, [1], completion=HOSTILE, question=HOSTILE,
            reference=HOSTILE)
  out = tmp_path / "report.html"
  html.write(
      out, title=HOSTILE, config={"model": {"d": 3}, "x": HOSTILE},
      versions={"jax": "0"}, figures=[("Caption " + HOSTILE, png)],
      tables=[("Results", *tables.comparison_cells({"base": {"pass1": 0.1}}))],
      problems=html.select(tmp_path), notes=["note"])
  page = out.read_text()
  seen = []

  class Tags(parser.HTMLParser):
    def handle_starttag(self, tag, attrs):
      seen.append((tag, dict(attrs)))

  Tags().feed(page)
  assert not [tag for tag, _ in seen if tag in ("script", "think", "answer")]
  images = [attrs for tag, attrs in seen if tag == "img"]
  assert len(images) == 1 and int(images[0]["width"]) > 300
  assert images[0]["src"].startswith("data:image/png;base64")
  for tag, attrs in seen:
    assert not [name for name in attrs if name.startswith("on")], tag
    assert "href" not in attrs
  assert "&lt;think&gt;2+2&lt;/think&gt;" in page
  assert "{{ 7*7 }}" in page and "http" not in page.replace("http-equiv", "")
  assert "model.d" in page


def test_hostile_text_stays_text_side_by_side(tmp_path):
  for step in (0, 7):
    evaluated(tmp_path, step, [1], samples=2, completion=HOSTILE,
              question=HOSTILE)
  page = html.side_by_side(html.select(tmp_path))
  seen = []

  class Tags(parser.HTMLParser):
    def handle_starttag(self, tag, attrs):
      seen.append(tag)

  Tags().feed(page)
  assert set(seen) == {"style", "section", "p", "b", "div", "h3", "pre"}
  assert seen.count("pre") == 4 and seen.count("section") == 1
  assert "<h3>Base</h3>" in page and "<h3>Step 7</h3>" in page
  assert "&lt;think&gt;2+2&lt;/think&gt;" in page and "{{ 7*7 }}" in page


def test_comparison_table():
  text = tables.comparison({
      "base": {"pass1": 0.123, "interval": (0.1, 0.15), "maj": 0.2, "k": 16,
               "format": 0.5, "length": 21.04},
      "R1-Zero": {"pass1": 0.9, "k": 16}})
  lines = text.splitlines()
  assert "maj@16" in lines[0]
  assert lines[2].split() == [
      "base", "12.3", "%", "10.0", "-", "15.0", "%", "20.0", "%", "50.0", "%",
      "21.0"]
  assert lines[3].split() == ["R1-Zero", "90.0", "%", "-", "-", "-", "-"]
  assert len({len(line) for line in lines}) == 1
  with pytest.raises(ValueError, match="has 1 cells"):
    tables.render(["a", "b"], [["1"]])
