"""Figures of reward models: both kinds, and what has nothing to show."""

import numpy as np
import pytest

from r1jax.evals import preference
from r1jax.report import reward_figure


@pytest.mark.parametrize("kind", ["pairs", "answers"])
def test_the_same_numbers_draw_the_same_bytes(kind, tmp_path):
  rng = np.random.default_rng(0)
  good, bad = rng.normal(1, 1, 30), rng.normal(0, 1, 30)
  lengths, sources = rng.integers(1, 99, (30, 2)), ["a", "b"] * 15
  if kind == "pairs":
    found = preference.pairs(good, bad, lengths.tolist(), sources)
  else:
    found = preference.answers(
        [*good, *bad], [1] * 30 + [0] * 30, lengths.T.reshape(-1), sources * 2)
  for name in ("one.png", "two.png"):
    reward_figure.draw(found, good, bad, lengths.T.reshape(-1),
                       tmp_path / name, blank=-3.0)
  data = (tmp_path / "one.png").read_bytes()
  assert data.startswith(b"\x89PNG") and len(data) > 20_000
  assert data == (tmp_path / "two.png").read_bytes()


def test_one_kind_of_answers_is_drawn_too(tmp_path):
  found = preference.answers([1.0, 2.0], [1, 1], [3, 3], ["", ""])
  assert found["auroc"] is None
  reward_figure.draw(found, [1.0, 2.0], [], [3, 3], tmp_path / "a.png")
