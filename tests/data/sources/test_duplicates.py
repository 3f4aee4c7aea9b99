import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import duplicates
from r1jax.data.sources.duplicates import Limits, drop

STORY = (
    "Lena keeps bees on the roof of the old library. Each of her hives gives"
    " 14 jars of honey in spring, and she owns 6 hives. Half of the jars go to"
    " the market, where a jar costs 8 coins, and the rest stay with friends who"
    " helped to carry the boxes up the stairs. How many coins does she earn?")


def prompt(number, question, reference="336", verifier="math"):
  return Prompt(id=number, domain="math", source="t", messages=ask(question),
                reference=reference, verifier=verifier)


def kinds(first, *others, limits=None):
  """What becomes of prompts that come after `first`."""
  rows = [first, *others]
  kept, dropped = drop({"t": rows}, limits or Limits())
  by_id = {row.id: row.kind for row in dropped["t"]}
  assert [p.id for p in kept["t"]] == [
      p.id for p in rows if p.id not in by_id]
  return [by_id.get(p.id, "kept") for p in others]


def test_copies_go_whatever_their_spaces():
  assert kinds(prompt(0, STORY), prompt(1, STORY),
               prompt(2, STORY.replace(". ", ".   ") + "\n"),
               prompt(3, "What is 3 + 4?")) == ["exact", "exact", "kept"]


def test_signs_and_case_of_short_questions_count():
  assert kinds(prompt(0, "What is 3 + 4?"), prompt(1, "What is 3 - 4?"),
               prompt(2, "what is 3 + 4?"), prompt(3, "What is 3 + 4?")
               ) == ["kept", "kept", "exact"]


@pytest.mark.parametrize("other,kind", [
    (prompt(1, STORY.replace("Lena", "Mina")), "near"),
    (prompt(1, STORY.upper()), "near"),
    (prompt(1, STORY.replace("14", "15")), "kept"),  # another problem
    (prompt(1, STORY.replace("Lena", "Mona"), "168"), "kept"),
    (prompt(1, STORY.replace("Lena", "Mona"), verifier="choice"), "kept"),
    (prompt(1, STORY.replace("bees", "cats").replace("hives", "bags")
            .replace("honey", "hair").replace("jars", "balls")
            .replace("market", "fair")), "kept")])
def test_near_duplicates(other, kind):
  assert kinds(prompt(0, STORY), other) == [kind]


def test_similarity_is_a_setting():
  pair = prompt(0, STORY), prompt(1, STORY.replace("Lena", "Mina"))
  assert kinds(*pair, limits=Limits(similarity=1.0)) == ["kept"]
  far = STORY.replace("library", "station").replace("spring", "autumn")
  pair = prompt(0, STORY), prompt(1, far)
  assert kinds(*pair) == ["kept"]
  assert kinds(*pair, limits=Limits(similarity=0.6)) == ["near"]


def test_programs_are_compared_without_their_tests():
  def program(number, question, tests):
    return prompt(number, question, {"kind": "asserts", "test": tests}, "code")

  assert kinds(program(0, STORY, "assert f() == 1"),
               program(1, STORY.replace("Lena", "Mina"), "assert f()"),
               program(2, STORY + " After '-'.", "assert f()"),
               program(3, STORY + " After '?'.", "assert f()"),
               program(4, STORY.replace("Lena", "Mina") + " After '?'.", "1"),
               ) == ["near", "kept", "kept", "near"]


def test_problems_of_one_template_are_not_alike():
  rule = ("Use each of these cards once, with the four operations and with"
          " parentheses, to make the number that is asked for: ")
  rows = [prompt(i, f"{rule} ace of {suit}", "x")
          for i, suit in enumerate("abcdefghijklmnopqrstu")]
  limits = Limits(similarity=0.6)
  assert kinds(*rows, limits=limits) == ["kept"] * 20
  # One fewer, and they may be copies.
  assert "near" in kinds(*rows[:20], limits=limits)


def test_the_first_source_keeps_and_the_report_says_so():
  parts = {"b": [prompt(4, STORY)],
           "a": [prompt(0, STORY), prompt(1, STORY.replace("Lena", "Mina")),
                 prompt(2, "Short?")], "none": []}
  seen = []
  kept, dropped = drop(parts, progress=seen.append)
  assert {k: [p.id for p in v] for k, v in kept.items()} == {
      "b": [4], "a": [2], "none": []}
  assert sum(seen) == 4
  report = duplicates.summary(dropped)
  assert report["a"]["exact"] == {
      "dropped": 1, "examples": [{"id": 0, "same_as": "b 4"}]}
  assert report["a"]["near"] == {
      "dropped": 1, "examples": [{"id": 1, "same_as": "b 4"}]}
  assert report["b"]["exact"]["dropped"] == 0


@pytest.mark.parametrize("bad", [
    dict(similarity=0.2), dict(words=0), dict(boilerplate=0.0), dict(least=0)])
def test_limits(bad):
  with pytest.raises(ValueError, match=f"{[*bad][0]}={[*bad.values()][0]}"):
    Limits(**bad)
