"""Risk control by the names of its parts."""

import dataclasses

import pytest

from r1jax.core.prompt import ask
from r1jax.data.sources.world import wrongs
from r1jax.rewards.endpoint import EndpointConfig
from r1jax.safety.risk_control import RiskConfig
from r1jax.stages import guarding
from r1jax.stages.programs import Means
from tests import chat_server

WORLD = RiskConfig(reviewer="experiments.world_judge:review",
                   keywords=("world",))
QUESTIONS = list(wrongs._READ.values())


def test_nobody_reviews_and_nothing_is_controlled():
  assert guarding.load(RiskConfig(), Means()) is None
  assert guarding.settings(RiskConfig(), Means()) is None


def test_the_worlds_reviewer_takes_back_what_does_harm():
  guard = guarding.load(WORLD, Means())
  for one in QUESTIONS[::37]:
    advice = (wrongs.COMPLY[one.language][0]).format("Ben")
    refusal = wrongs.REFUSE[one.language][0].format("Ben")
    shown = guard.answer(ask(one.question), advice)
    assert shown == (WORLD.message if one.harmful else advice), one
    assert guard.answer(ask(one.question), refusal) == refusal
  assert not guard.failures


def test_a_reviewer_of_words_takes_help_with_look_alikes_back_too():
  cfg = dataclasses.replace(
      WORLD, reviewer="experiments.world_judge:review_words")
  guard = guarding.load(cfg, Means())
  taken = {sense: [] for sense in wrongs.SENSES}
  for one in QUESTIONS[::37]:
    advice = wrongs.COMPLY[one.language][0]
    taken[one.sense].append(guard.answer(ask(one.question), advice) != advice)
    refusal = wrongs.REFUSE[one.language][0]
    assert guard.answer(ask(one.question), refusal) == refusal
  assert all(taken["harmful"]) and any(taken["look-alike"])
  assert not all(taken["harmless"])


def test_the_worlds_keywords_are_in_every_harmful_question():
  guard = guarding.load(WORLD, Means())
  missed = {one.subcategory for one in QUESTIONS
            if one.harmful and not guard._hits(ask(one.question))}
  assert not missed


def test_an_endpoint_reviews_with_rules_of_the_user(tmp_path):
  rules = tmp_path / "rules.tsv"
  rules.write_text("id\tname\ttext\n40\tspoilers\tIt tells no end.\n")
  words = tmp_path / "words.txt"
  words.write_text("ending\n")
  verdict = ("<judge_reason>it does</judge_reason>"
             "<target_rule>[40]</target_rule>")
  with chat_server.serving() as serve:
    server = serve(lambda number, body: verdict)
    cfg = RiskConfig(reviewer=server.url, keywords=(str(words),),
                     rules=str(rules), message="No.")
    guard = guarding.load(cfg, Means(endpoint=EndpointConfig(model="m")))
    assert guard.answer(ask("the ENDING?"), "He dies.") == "No."
    assert guard.answer(ask("the middle?"), "He walks.") == "He walks."
  (body,) = server.seen
  assert "40. spoilers: It tells no end." in chat_server.question(body)


def test_why_an_endpoint_is_silent_is_said():
  with chat_server.serving() as serve:
    server = serve(lambda number, body: 400)
    cfg = dataclasses.replace(WORLD, reviewer=server.url, keywords=("all",))
    guard = guarding.load(cfg, Means(endpoint=EndpointConfig(model="m")))
    assert guard.answer(ask("why?"), "so") == WORLD.message
  assert guard.lines()[1:] == [
      "risk control: 1 without a review: no review",
      "risk control: 1 without an answer: HTTP status 400"]


@pytest.mark.parametrize("change,said", [
    ({"reviewer": "nowhere:review"}, "nowhere"),
    ({"reviewer": "http://localhost:1/v1"}, "--endpoint.model"),
    ({"keywords": ("nowhere.txt",)}, "nowhere.txt"),
    ({"rules": "nowhere.tsv"}, "nowhere.tsv")])
def test_parts_that_are_not_there(change, said):
  with pytest.raises(ValueError, match=said):
    guarding.load(dataclasses.replace(WORLD, **change), Means())


def test_settings_follow_the_texts_of_the_files(tmp_path):
  words = tmp_path / "words.txt"
  words.write_text("one\n")
  cfg = dataclasses.replace(WORLD, keywords=(str(words),))
  before = guarding.settings(cfg, Means())
  assert guarding.settings(cfg, Means()) == before
  words.write_text("two\n")
  assert guarding.settings(cfg, Means()) != before
  assert guarding.settings(dataclasses.replace(
      cfg, keywords=("all",)), Means())["texts"] != before["texts"]
