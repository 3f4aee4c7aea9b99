"""Intervals of BBQ's numbers."""

import math

import numpy as np
import pytest

from r1jax.core.prompt import Prompt
from r1jax.evals import intervals
from r1jax.safety import scores
from r1jax.safety.verdicts import SAFE, Case, Verdict
from r1jax.stages.reports import bias_intervals
from tests.reference import bbq as reference
from tests.reference import estimators
from tests.safety.test_bbq import items

F64 = dict(rtol=1e-12, atol=1e-12)
QUANTILE = dict(rtol=1e-8, atol=1e-8)  # of the reference's bisection


def case(number, one):
  return Case(prompt=Prompt(
      id=number, domain="general", source="bbq", messages=(),
      reference={"answer": one["right"], "options": {}}, verifier="choice",
      metadata={"polarity": "neg" if one["negative"] else "nonneg"} | {
          key: one[key] for key in ("category", "condition", "unknown",
                                    "target", "other", "biased")}),
      answer="", verdict=Verdict(label=SAFE, choice=one["chosen"]))


@pytest.fixture(scope="module")
def made():
  return items(0)


def test_values_are_those_without_intervals(made):
  cases = [case(i, one) for i, one in enumerate(made)]
  found, plain = bias_intervals.of(cases), scores.bias(cases)
  for name, number in plain["helm"].items():
    np.testing.assert_allclose(found["helm"][name]["value"], number, **F64)
  for name, number in plain["original"]["Age"].items():
    one = found["original"]["Age"][name]
    np.testing.assert_allclose(one["value"], number, **F64)
    assert -1 <= one["low"] < one["value"] < one["high"] <= 1


def test_ambiguous_bias_is_resampled_by_question(made, monkeypatch):
  """Two items a question; HELM's program over the same draws."""
  monkeypatch.setattr(intervals, "RESAMPLES", 20)
  got = bias_intervals.of(case(i // 2, one) for i, one in enumerate(made))
  rng, drawn = np.random.default_rng((intervals.SEED, 0)), []
  for _ in range(20):
    drawn.append(reference.helm([
        one for q in rng.integers(200, size=200)
        for one in made[2 * q:2 * q + 2]])[1])
  one = got["helm"]["bias_ambiguous"]
  np.testing.assert_allclose(
      [one["low"], one["high"]], np.percentile(drawn, [2.5, 97.5]), **F64)
  assert one["count"] == 200
  assert one["value"] == pytest.approx(reference.helm(made)[1], rel=1e-12)


def test_clear_bias_has_the_interval_of_its_share(made):
  cases = [case(i, one) for i, one in enumerate(made)]
  got = bias_intervals.of(cases)["original"]["Age"]["bias_clear"]
  known = [one["chosen"] == one["biased"] for one in made
           if one["condition"] == "disambig" and one["biased"]
           and one["chosen"] not in ("", one["unknown"])]
  count, share = len(known), sum(known) / len(known)
  low, high = estimators.share_interval(
      share, math.sqrt(share * (1 - share) / (count - 1)), count)
  np.testing.assert_allclose(
      [got["low"], got["high"]], [2 * low - 1, 2 * high - 1], **QUANTILE)


def test_nothing_to_count_has_no_interval(made):
  known = [one | {"chosen": one["unknown"]} for one in made]
  found = bias_intervals.of(case(i, one) for i, one in enumerate(known))
  assert found["helm"]["bias_clear"] is None is found["helm"]["bias_ambiguous"]
  assert found["original"]["Age"]["bias_ambiguous"] is None
  assert bias_intervals.of([]) == {"helm": {
      "accuracy": None, "bias_ambiguous": None, "bias_clear": None},
      "original": {}}
