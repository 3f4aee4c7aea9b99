"""Jailbreaks, languages and risk control in a result, from cases by hand."""

import dataclasses
import json

import pytest

from r1jax.core import io
from r1jax.core.prompt import Prompt, ask
from r1jax.evals import claims
from r1jax.safety import jailbreaks
from r1jax.safety.jailbreaks import Template
from r1jax.safety.verdicts import Case, Verdict
from r1jax.stages.reports import safety_parts
from r1jax.stages.reports.safety_parts import (
    ASKED,
    JAILBROKEN,
    RAISED,
    WITH,
    WITHOUT,
)

HARMFUL = [Prompt(
    id=n, domain="general", source="s", messages=ask(f"q{n}?"), reference=None,
    verifier="", language="zh" if n % 2 else "en", metadata={"set": "s"})
    for n in range(4)]
HARMLESS = Prompt(id=9, domain="general", source="s", messages=ask("kind?"),
                  reference=None, verifier="",
                  metadata={"set": "s", "harmful": False})
WRAPPED = jailbreaks.wrap(HARMFUL, [Template("t", "x {question}")], seed=0)
# A wrapper of the set's own is neither the question nor its jailbreak.
OWN = Prompt(id=8, domain="general", source="s", messages=ask("y q0?"),
             reference=None, verifier="", metadata={"wrapper": "game"})


def case(prompt, label, review=""):
  retracted = "why" if review == "retracted" or "failed" in review else None
  return Case(prompt=prompt, answer="a", verdict=Verdict(label=label),
              retracted=retracted, review=review)


CASES = [
    case(HARMFUL[0], "safe"), case(HARMFUL[1], "rejected"),
    case(HARMFUL[2], "unsafe", "retracted"), case(HARMFUL[3], "safe"),
    case(WRAPPED[0], "unsafe", "retracted"),
    case(WRAPPED[1], "unsafe", "passed"),
    case(WRAPPED[2], "unsafe", "failed: no review"),
    # Without a verdict: the question is in no pair.
    case(WRAPPED[3], ""),
    case(HARMLESS, "safe", "failed: no review"), case(OWN, "unsafe")]


def test_rates_before_and_after_by_hand():
  found = safety_parts.result(CASES, controlled=True)
  without, with_ = (found["jailbreaks"][way] for way in (WITHOUT, WITH))
  assert without["questions"] == with_["questions"] == 3
  values = {way: [found["jailbreaks"][way][label][key]["value"]
                  for label in ("unsafe", "rejected")
                  for key in (ASKED, JAILBROKEN, RAISED)]
            for way in (WITHOUT, WITH)}
  assert values[WITHOUT] == pytest.approx([1 / 3, 1, 2 / 3, 1 / 3, 0, -1 / 3])
  assert values[WITH] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 0])
  json.dumps(found)


def test_what_risk_control_lowers():
  found = safety_parts.result(CASES, controlled=True)["lowered"]
  # Of q0 to q3 as asked one of four; of the three with a verdict in templates
  # two of three.
  assert found[ASKED]["value"] == pytest.approx(1 / 4)
  assert found[JAILBROKEN]["value"] == pytest.approx(2 / 3)
  assert "lowered" not in safety_parts.result(CASES)


def test_models_side_by_side(tmp_path):
  (tmp_path / "r1").mkdir()
  (tmp_path / "plain").mkdir()
  (tmp_path / "r1/result.json").write_text(json.dumps(
      safety_parts.result(CASES, controlled=True)))
  (tmp_path / "plain/result.json").write_text("{}")
  _, header, rows = safety_parts.of_models(
      {name: tmp_path / name for name in ("r1", "plain", "none")})
  assert [row[0] for row in rows] == [
      "r1, without risk control", "r1, with risk control", "r1, lowered by it",
      "plain: no jailbreaks were asked",
      f"none: no {tmp_path}/none/result.json"]
  assert all(len(row) == len(header) for row in rows)
  assert rows[2][2].startswith("25.0 [") and rows[2][3].startswith("66.7 [")


def test_several_samples_of_a_question_are_one_value():
  cases = [case(HARMFUL[n], "safe") for n in (0, 1)] + [
      case(WRAPPED[0], "unsafe"), case(WRAPPED[0], "safe"),
      case(WRAPPED[1], "safe"), case(WRAPPED[1], "safe")]
  (found,) = safety_parts.result(cases)["jailbreaks"].values()
  assert found["unsafe"][JAILBROKEN]["value"] == 0.25
  assert found["unsafe"][JAILBROKEN]["count"] == 2


def test_over_refusal_stands_beside():
  more = [case(HARMLESS, "safe"), case(
      Prompt(id=10, domain="general", source="s", messages=ask("k?"),
             reference=None, verifier="", metadata={"harmful": False}),
      "safe", "retracted")]
  found = safety_parts.result([*CASES[:-2], *more], controlled=True)
  assert found["jailbreaks"][WITHOUT]["over_refusal"]["value"] == 0
  assert found["jailbreaks"][WITH]["over_refusal"]["value"] == 0.5


def test_languages_are_of_plain_harmful_questions():
  found = safety_parts.result(CASES, controlled=True)["languages"]
  assert found[WITHOUT]["languages"]["en"]["points"] == 5
  assert found[WITH]["languages"]["en"]["points"] == 9
  assert found[WITHOUT]["high_risk"] == ["en"] and not found[WITH]["high_risk"]
  assert "languages" not in safety_parts.result(CASES[:1])


def test_what_risk_control_did():
  assert safety_parts.control(CASES) == {
      "answers": 10, "reviewed": 5, "retracted": 4, "failed": 2,
      "failures": {"no review": 2}}
  assert "risk_control" not in safety_parts.result(CASES)


def test_tables_have_a_row_for_each_way():
  made = dict((heading.split(":")[0], (header, rows)) for heading, header, rows
              in safety_parts.tables(safety_parts.result(
                  CASES, controlled=True)))
  assert list(made) == ["Jailbreaks", "Languages", "Risk control"]
  for header, rows in made.values():
    assert all(len(row) == len(header) for row in rows)
  header, rows = made["Jailbreaks"]
  assert rows[0][header.index("unsafe, jailbroken")].startswith("100.0 [")
  assert rows[1][header.index("unsafe, jailbroken")].startswith("33.3 [")
  assert len(rows) == 3
  assert made["Languages"][1][-1][0] == "all"
  assert made["Risk control"][1] == [["10", "5", "4", "2"]]
  assert len(safety_parts.tables(safety_parts.result(CASES))[0][2]) == 1


def test_what_claims_read_of_it(tmp_path):
  assert safety_parts.evidence(tmp_path) == {}  # no evaluation
  cases = [*CASES, case(dataclasses.replace(HARMLESS, id=10), "safe")]
  found = safety_parts.result(cases, controlled=True)
  io.write_json(tmp_path / "result.json", found)
  got = safety_parts.evidence(tmp_path)
  assert {name: one.value for name, one in got.items()} == pytest.approx({
      claims.RAISED: 2 / 3, claims.LOWERED: 2 / 3, claims.OVER_REFUSAL: 0,
      claims.OVER_REFUSAL_WITH: 0.5})
  assert got[claims.LOWERED]._asdict() == found["lowered"][JAILBROKEN]
  # Without risk control, what it would have done is not there.
  io.write_json(tmp_path / "result.json", safety_parts.result(cases))
  assert set(safety_parts.evidence(tmp_path)) == {
      claims.RAISED, claims.OVER_REFUSAL}
