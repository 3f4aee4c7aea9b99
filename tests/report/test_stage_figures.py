from __future__ import annotations

import matplotlib.image
import numpy as np

from r1jax.report import figures, stage_figures


def ink(path):
  image = matplotlib.image.imread(path)
  return np.mean(image[..., :3].min(-1) < 0.9)


def metrics(n=9, **more):
  return [{"step": s, "reward/helpful": 0.1 * s, "rollout/length_mean": 20.0}
          | {k: f(s) for k, f in more.items()} for s in range(1, n + 1)]


EVALS = [{"step": s, "reasoning": 0.5, "reasoning_low": 0.4,
          "reasoning_high": 0.6} for s in (0, 9)]
TRUTHS = (("reasoning", "reasoning"), ("utility", "true utility"))


def drawn(monkeypatch, draw, *args, **kwargs):
  """The figure that `draw` made."""
  kept = []
  save = figures.matplotlib.figure.Figure.savefig
  monkeypatch.setattr(
      figures.matplotlib.figure.Figure, "savefig",
      lambda self, *a, **k: (kept.append(self), save(self, *a, **k))[1])
  draw(*args, **kwargs)
  return kept[-1]


def test_a_run_of_one_step_is_a_point(tmp_path, monkeypatch):
  """A line through it would be no ink at all."""
  marks = [drawn(monkeypatch, stage_figures.self_evolution, metrics(n), EVALS,
                 tmp_path / "a.png", accuracy=TRUTHS[:1]
                 ).axes[1].lines[-1].get_marker() for n in (1, 2)]
  assert marks[0] == "o" and marks[1] in ("", "None")


def test_distance_is_the_root_of_the_divergence_of_an_answer(
    tmp_path, monkeypatch):
  rows = metrics(**{"policy/kl": lambda s: 0.01 * s})
  figure = drawn(monkeypatch, stage_figures.hacking, rows, EVALS,
                 tmp_path / "a.png", truths=TRUTHS)
  below_kl = figure.axes[3]
  (line, *_) = below_kl.get_lines()
  # Step 0 is the reference; at the last step, the mean of it and the one before
  # (no running mean goes beyond the ends).
  np.testing.assert_allclose(
      line.get_xdata(), [0, np.sqrt((0.08 + 0.09) / 2 * 20)], rtol=1e-12)
  assert ink(tmp_path / "a.png") > 0.005


def test_a_run_that_logged_no_divergence(tmp_path, monkeypatch):
  figure = drawn(monkeypatch, stage_figures.hacking, metrics(), EVALS,
                 tmp_path / "a.png", truths=TRUTHS)
  assert "--log_kl" in figure.axes[3].texts[0].get_text()


def test_no_panel_of_words_that_nobody_uses(tmp_path, monkeypatch):
  for words, panels in ((0.0, 2), (0.5, 3)):
    figure = drawn(
        monkeypatch, stage_figures.self_evolution, metrics(),
        [row | {"reflective": words} for row in EVALS], tmp_path / "a.png",
        accuracy=TRUTHS)
    assert len(figure.axes) == panels


def test_models_that_lack_a_measure(tmp_path, monkeypatch):
  cells = {"base": {"safe": (0.5, 0.4, 0.6)}, "R1": {}}
  figure = drawn(monkeypatch, stage_figures.models, cells,
                 [("safe", "safe"), ("win", "win rate")], tmp_path / "a.png")
  assert [len(axes.get_lines()) for axes in figure.axes] == [2, 0]
