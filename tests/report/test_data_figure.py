import matplotlib.image
import numpy as np

from r1jax.report import data_figure

LENGTHS = {
    "math": {"b": np.arange(1.0, 400), "a": [3.0] * 40},
    "code": {f"source {i}": [10.0 * i + 1] * 9 for i in range(7)}}


def test_a_figure_with_ink_whose_bytes_repeat(tmp_path):
  for name in "ab":
    data_figure.draw(LENGTHS, tmp_path / f"{name}.png")
  first, second = ((tmp_path / f"{name}.png").read_bytes() for name in "ab")
  assert first == second
  image = matplotlib.image.imread(tmp_path / "a.png")
  assert image.shape[1] >= 1500
  assert np.mean(image[..., :3].min(-1) < 0.9) > 0.05
  data_figure.draw({"math": {"a": [3.0] * 40}}, tmp_path / "c.png")
  assert (tmp_path / "c.png").read_bytes() != first


def test_odd_data(tmp_path):
  for number, lengths in enumerate(
      ({}, {"math": {"a": [5.0]}}, {"math": {"a": []}, "code": {"b": [0.0]}})):
    data_figure.draw(lengths, tmp_path / f"{number}.png")
  assert len(list(tmp_path.glob("*.png"))) == 3
