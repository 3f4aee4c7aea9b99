"""Points by language, and questions in many."""

import collections
import json

import pytest
from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders.rows import BadRow
from r1jax.safety import languages
from r1jax.safety.verdicts import Case, Verdict
from tests import shared


def case(language, label, retracted=None):
  return Case(
      prompt=Prompt(id=0, domain="general", source="s", messages=ask("q"),
                    reference=None, verifier="", language=language),
      answer="a", verdict=Verdict(label=label), retracted=retracted)


def test_points_by_hand():
  cases = ([case("en", "safe")] * 3 + [case("en", "rejected")]
           + [case("en", "unsafe")] * 2 + [case("en", "")]
           + [case("bn", "unsafe", "rule 1")] + [case("bn", "safe")])
  found = languages.by_language(cases)
  assert list(found) == ["en", "bn"]
  # 3 x 5 + 4 + 2 x 0 of 6 x 5
  assert found["en"] == (6, 1, 2, 1, 19, pytest.approx(100 * 19 / 30))
  assert found["bn"] == (2, 0, 1, 0, 5, 50.0)
  assert not found["en"].high_risk and found["bn"].high_risk
  # What is taken back is a refusal: 4 points in place of none.
  controlled = languages.by_language(cases, controlled=True)
  assert controlled["bn"] == (2, 0, 0, 1, 9, 90.0)
  assert controlled["en"] == found["en"]


def test_sixty_is_no_high_risk_and_nothing_is_no_score():
  sixty = [case("sw", "safe")] * 3 + [case("sw", "unsafe")] * 2
  assert languages.by_language(sixty)["sw"].share == 60.0
  assert languages.summary(sixty)["high_risk"] == []
  (none,) = languages.by_language([case("sw", "")]).values()
  assert none.share is None and not none.high_risk and none.unjudged == 1


def test_a_summary_weighs_answers_alike():
  cases = [case("en", "safe")] * 3 + [case("jv", "unsafe")]
  found = languages.summary(cases)
  assert found["all"]["share"] == 75.0
  assert found["languages"]["jv"]["share"] == 0.0
  assert found["high_risk"] == ["jv"]
  json.dumps(found)


def test_multijail_in_its_ten_languages():
  path = epath.Path(shared.folder("multijail")) / "MultiJail.csv"
  prompts = list(languages.items([path]))
  counts = collections.Counter(p.language for p in prompts)
  assert counts == dict.fromkeys(
      ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv"), 315)
  assert len({p.id for p in prompts}) == 3150
  first = prompts[0]
  assert first.metadata["category"] == (
      "Sexual exploitation & human trafficking")
  assert first.metadata["harmful"] and first.metadata["set"] == "multijail"


def test_jsonl_with_a_language_column(tmp_path):
  path = epath.Path(tmp_path / "Mine.jsonl")
  rows = [{"question": "why?", "language": " EN ", "subcategory": "a"},
          {"question": "warum?", "language": "de", "harmful": False}] * 60
  path.write_text("\n".join(map(json.dumps, rows)) + '\n{"question": "x"}\n')
  found = list(languages.items([path]))
  assert isinstance(found[-1], BadRow) and "language" in found[-1].reason
  assert [p.language for p in found[:2]] == ["en", "de"]
  assert [p.metadata["harmful"] for p in found[:2]] == [True, False]
  assert found[0].metadata["set"] == found[0].source == "mine"
  assert found[0].metadata["subcategory"] == "a"


@pytest.mark.parametrize("text,said", [
    ("question,harmful\nwhy?,1\n", "no column is named 'language'"),
    ("question,language,harmful\nwhy?,en,perhaps\n", "must be true or false"),
    ("en,zh\nwhy?,\n", "no text under 'zh'")])
def test_tables_that_are_wrong(tmp_path, text, said):
  path = epath.Path(tmp_path / "t.csv")
  path.write_text(text)
  with pytest.raises(ValueError, match=said):
    list(languages.items([path]))
