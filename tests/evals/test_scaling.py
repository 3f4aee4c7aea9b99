from __future__ import annotations

import numpy as np

from r1jax.evals import estimators, scaling, summaries
from r1jax.report import scaling_figure
from tests.report.test_stage_figures import drawn, ink


def problems(correct_QG, lengths_QG, answers=None):
  correct_QG = np.array(correct_QG, float)
  answers = answers or [["r" if x else "w" for x in row] for row in correct_QG]
  return summaries.Problems(
      [{"question": f"{i}?", "answers": row, "level": i % 3}
       for i, row in enumerate(answers)], correct_QG,
      np.broadcast_to(np.array(lengths_QG), correct_QG.shape), [])


def test_majorities_cost_what_their_samples_take():
  found = problems([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 1]], [10, 20, 30, 40])
  rows = scaling.majority(found)
  assert [(row["k"], row["tokens"]) for row in rows] == [
      (1, 25.0), (2, 50.0), (4, 100.0)]
  assert rows[0]["mean"] == found.correct_QG.mean()
  assert rows[2]["mean"] == estimators.maj_at_k(
      [row["answers"] for row in found.rows], found.correct_QG) == 0.5


def test_forced_lengths_are_in_order():
  short, long = problems([[0], [1]], [5]), problems([[1], [1]], [50])
  rows = scaling.forced({64: long, 4: short})
  assert [(r["budget"], r["tokens"], r["mean"]) for r in rows] == [
      (4, 5.0, 0.5), (64, 50.0, 1.0)]
  assert rows[0]["low"] < 0.5 < rows[0]["high"]


def test_hard_problems_take_long():
  right = [[1]] * 8 + [[0]] * 2
  rows = scaling.by_length(problems(right, np.arange(10)[:, None] + 1))
  assert [row["tokens"] for row in rows] == [1.5, 3.5, 5.5, 7.5, 9.5]
  assert [row["mean"] for row in rows] == [1, 1, 1, 1, 0]
  assert scaling.by_length(problems(right[:9], 1)) == []


def test_the_figures(tmp_path, monkeypatch):
  found = problems([[1, 1, 0, 0]] * 6, [10, 20, 30, 40])
  lines = {"majority": [row | {"label": f"k = {row['k']}"}
                        for row in scaling.majority(found)],
           "longer": scaling.forced({8: found, 16: found})}
  figure = drawn(monkeypatch, scaling_figure.tokens,
                 {"arith": lines, "aime": {"majority": lines["majority"]}},
                 tmp_path / "a.png")
  assert [len(axes.get_lines()) for axes in figure.axes] == [2, 1]
  assert figure.axes[0].get_lines()[0].get_xdata().tolist() == [25, 50, 100]
  labels = [text.get_text() for text in figure.axes[0].texts]
  assert labels == ["k = 1", "k = 2", "k = 4"]
  # A line has its colour in every panel, and one entry in the legend.
  assert figure.axes[0].get_lines()[0].get_color() == (
      figure.axes[1].get_lines()[0].get_color())
  assert [text.get_text() for text in figure.legends[0].get_texts()] == [
      "majority", "longer"]
  assert ink(tmp_path / "a.png") > 0.005
  cells = {"zero": {"1": (0.5, 0.4, 0.6), "2": (0.2, 0.1, 0.3)},
           "r1": {"2": (0.9, 0.8, 1.0)}}
  figure = drawn(monkeypatch, scaling_figure.parts,
                 {"MATH by level": cells, "MATH by topic": {"r1": {
                     "Number theory": (0.9, 0.8, 1.0)}}}, tmp_path / "b.png")
  assert [len(axes.get_lines()) for axes in figure.axes] == [6, 2]
  assert ink(tmp_path / "b.png") > 0.002
