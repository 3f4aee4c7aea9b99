from __future__ import annotations

import pytest

from r1jax.evals import evolution


def test_shares():
  got = evolution.reflection(["Wait, wait: 3+4=7.", "No; but checked, check"])
  assert got["wait"] == pytest.approx(2 / 6)
  assert got["but"] == got["check"] == pytest.approx(1 / 6)
  assert got["all"] == pytest.approx(4 / 6)
  assert set(got) == {*evolution.REFLECTIVE, "all"}


def test_nothing():
  assert set(evolution.reflection(["", "1+1"]).values()) == {0.0}
