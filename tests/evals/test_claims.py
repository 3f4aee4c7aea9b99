from __future__ import annotations

import numpy as np
import pytest

from r1jax.evals import claims, intervals
from r1jax.evals.claims import FAILS, HOLDS, OPEN, Claim, Comparison, Side

RNG = np.random.default_rng(0)
EASE = RNG.random(200)  # of the questions, alike for all models


def values(skill, noise=0.02):
  return {f"{i}?": float(np.clip(ease * skill + noise * RNG.normal(), 0, 1))
          for i, ease in enumerate(EASE)}


EVIDENCE = {
    "dev1": {"reasoning": values(0.5), "utility": values(0.5)},
    "dev2": {"reasoning": values(0.9), "utility": values(0.5)},
    "r1": {"reasoning": values(0.9), "utility": values(0.9)}}


def more(first, second, margin=0.0, measure="reasoning"):
  return Comparison(Side(first, measure), Side(second, measure), margin)


def verdict(*groups):
  return claims.judge(Claim("sentence", groups), EVIDENCE)["verdict"]


def test_three_verdicts():
  assert verdict((more("dev2", "dev1"),)) == HOLDS
  assert verdict((more("dev1", "dev2"),)) == FAILS
  assert verdict((more("r1", "dev2"),)) == OPEN


def test_the_margin_is_what_is_compared():
  # 0.4 of the mean ease is about 0.2.
  assert verdict((more("dev2", "dev1", 0.1),)) == HOLDS
  assert verdict((more("dev2", "dev1", 0.3),)) == FAILS
  assert verdict((more("r1", "dev2", -0.03),)) == HOLDS
  assert verdict((Comparison(Side("dev2", "reasoning"), None, 0.3),)) == HOLDS
  assert verdict((Comparison(Side("dev2", "reasoning"), None, 0.6),)) == FAILS


def test_pairing_decides_what_groups_leave_open():
  first, second = Side("a", "utility"), Side("b", "utility")
  evidence = {"a": {"utility": values(0.95)}, "b": {"utility": values(0.9)}}
  for paired, expected in ((True, HOLDS), (False, OPEN)):
    claim = Claim("s", ((Comparison(first, second, paired=paired),),))
    assert claims.judge(claim, evidence)["verdict"] == expected


YES, NO = more("dev2", "dev1"), more("dev1", "dev2")
MAYBE = more("r1", "dev2")


@pytest.mark.parametrize("groups,expected", [
    (((YES,), (YES,)), HOLDS), (((YES,), (MAYBE,)), OPEN),
    (((YES,), (NO,)), FAILS), (((MAYBE,), (NO,)), FAILS),
    (((YES, NO),), HOLDS), (((NO, MAYBE),), OPEN), (((NO, NO),), FAILS),
    (((YES, NO), (MAYBE,)), OPEN)])
def test_groups_and_alternatives(groups, expected):
  assert verdict(*groups) == expected


def test_numbers_are_those_of_the_intervals():
  got = claims.judge(Claim("s", ((YES,),), must=True), EVIDENCE)
  assert got["must"] and got["claim"] == "s"
  (number,) = got["numbers"]
  expected = intervals.difference(
      EVIDENCE["dev2"]["reasoning"], EVIDENCE["dev1"]["reasoning"], binary=True)
  assert [number[k] for k in expected._fields] == list(expected)
  assert number["what"] == "reasoning, pass@1: Dev2 less Dev1"


def test_what_is_missing_is_said():
  claim = Claim("s", ((more("r1", "dev3"),), (YES,)))
  got = claims.judge(claim, EVIDENCE, {"dev3": "no evaluation of Dev3: why"})
  assert got["verdict"] == OPEN
  assert got["numbers"][0]["reason"] == "no evaluation of Dev3: why"
  got = claims.judge(claim, EVIDENCE)
  assert got["numbers"][0]["reason"] == "no evaluation of Dev3"
  got = claims.judge(Claim("s", ((more("r1", "dev2", measure="safe"),),)),
                     EVIDENCE)
  assert "too few questions with safe on harmful" in got["numbers"][0]["reason"]
  # What is missing does not hide what fails.
  assert verdict((more("r1", "dev3"),), (NO,)) == FAILS


def test_the_papers_sentences():
  every = claims.claims()
  assert len({claim.sentence for claim in every}) == len(every) >= 10
  assert sum(claim.must for claim in every) == 7
  # Without numbers nothing holds and nothing fails.
  assert {claims.judge(claim, {})["verdict"] for claim in every} == {OPEN}


def test_every_sentence_can_hold_and_can_fail():
  """All numbers in a claim's favour, then all against it."""
  for claim in claims.claims():
    for favour, expected in ((1, HOLDS), (-1, FAILS)):
      assert claims.judge(claim, one_sided(claim, favour))["verdict"] == (
          expected), claim.sentence


def one_sided(claim, favour):
  evidence = {}
  for comparison in (c for group in claim.groups for c in group):
    high, low = (0.99, 0.2) if favour > 0 else (0.2, 0.99)
    for side, level in ((comparison.first, high), (comparison.second, low)):
      if side:
        of_model = evidence.setdefault(side.model, {})
        of_model.setdefault(side.measure, {
            f"{i}?": level + 0.001 * (i % 7) for i in range(60)}
            if side.measure not in claims.SAFETY else intervals.Interval(
                favour * 0.2, favour * 0.2 - 0.1, favour * 0.2 + 0.1, 60, ""))
  return evidence


def test_safety_is_an_interval_made_elsewhere():
  """Both halves are needed; over-refusal is shown and decides nothing."""
  claim, = (c for c in claims.claims() if "risk control" in c.sentence)

  def of(raised, lowered, refused=(0.9, 0.8, 1.0)):
    return {"r1": {name: intervals.Interval(*ends, 60, "Newcombe")
                   for name, ends in (
                       (claims.RAISED, raised), (claims.LOWERED, lowered),
                       (claims.OVER_REFUSAL, refused)) if ends}}

  up, open_, down = (0.2, 0.1, 0.3), (0.05, -0.02, 0.1), (-0.2, -0.3, -0.1)
  for raised, lowered, expected in (
      (up, up, HOLDS), (up, open_, OPEN), (down, up, FAILS), (up, down, FAILS),
      (up, None, OPEN)):
    got = claims.judge(claim, of(raised, lowered))
    assert got["verdict"] == expected
  first, second, refused, lacking = got["numbers"]
  assert (first["value"], first["low"], first["difference"]) == (0.2, 0.1, True)
  assert refused["verdict"] == claims.BESIDE and not refused["difference"]
  reason = "no safety evaluation of R1 with jailbreaks and risk control"
  assert second["reason"] == lacking["reason"] == reason
