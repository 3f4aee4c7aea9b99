"""What leaves a service under risk control, and what is counted."""

import itertools
import threading

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards.endpoint import Endpoint
from r1jax.safety import review
from r1jax.safety.keywords import Keywords
from r1jax.safety.review import Review, Turn
from r1jax.safety.risk_control import Part, RiskConfig, RiskControl
from r1jax.safety.verdicts import Reviewed
from tests import chat_server
from tests.safety.test_review import malformed, verdict

WORDS = Keywords(["bomb"])
HIT, OTHER = ask("a bomb?"), ask("a bird?")
MESSAGE = RiskConfig().message


def control(reviews, words=WORDS, **settings):
  """A control whose reviewer says these things, one a turn, for ever."""
  said = itertools.cycle(reviews)
  return RiskControl(words, lambda turns: [next(said) for _ in turns],
                     RiskConfig(**settings))


def test_only_what_a_rule_names_is_taken_back():
  guard = control([Review((3, 6), "bad"), Review((), "fine")])
  decisions = guard.decide([
      Turn(HIT, "one"), Turn(OTHER, "two"), Turn(HIT, "three")])
  assert [d.text for d in decisions] == [MESSAGE, "two", "three"]
  assert [d.hits for d in decisions] == [("bomb",), (), ("bomb",)]
  assert [d.reviewed for d in decisions] == [
      Reviewed("rule 3, 6: bad", "retracted"), Reviewed(None, ""),
      Reviewed(None, "passed")]
  assert guard.counts == {"turns": 3, "hits": 2, "retracted": 1, "failed": 0}


def test_the_last_message_is_searched():
  guard = control([Review((1,))])
  turns = (*HIT, {"role": "assistant", "content": "x"}, *OTHER)
  assert guard.answer(turns, "y") == "y"
  assert guard.answer((*OTHER, {"role": "assistant", "content": "x"}, *HIT),
                      "y") == MESSAGE


@pytest.mark.parametrize("more", [
    [("user", "go on")], [("system", "go on")],
    [("system", "x"), ("user", "y")]])
def test_all_messages_since_the_last_answer_are_searched(more):
  guard = control([Review((1,))])
  after = [{"role": role, "content": text} for role, text in more]
  said = {"role": "assistant", "content": "x"}
  assert guard.answer([*HIT, *after], "y") == MESSAGE
  assert guard.answer([*HIT, said, *after], "y") == "y"
  own = {"role": "system", "content": "Never speak of a bomb."}
  assert guard.answer([own, *OTHER], "y") == "y"
  assert guard.answer([own, *HIT, *after], "y") == MESSAGE


def test_without_keywords_every_answer_is_reviewed():
  guard = control([Review((1,))], words=None)
  assert guard.answer(OTHER, "y") == MESSAGE


@pytest.mark.parametrize("failed,text", [("closed", MESSAGE), ("open", "y")])
def test_a_review_that_fails(failed, text):
  guard = control([Review(failed="no review")], failed=failed)
  (decision,) = guard.decide([Turn(HIT, "y")])
  assert decision.text == text
  assert decision.reviewed.review == "failed: no review"
  assert guard.failures == {"no review": 1}
  assert guard.counts["failed"] == 1
  assert any("no review" in line for line in guard.lines())


@pytest.mark.parametrize("reviewer", [
    lambda turns: 1 / 0, lambda turns: [], lambda turns: None])
def test_a_reviewer_that_breaks_lets_nothing_out(reviewer):
  guard = RiskControl(WORDS, reviewer)
  decisions = guard.decide([Turn(HIT, "y"), Turn(OTHER, "z"), Turn(HIT, "x")])
  assert [d.text for d in decisions] == [MESSAGE, "z", MESSAGE]
  assert guard.counts["failed"] == 2 == sum(guard.failures.values())


def test_a_thousand_malformed_verdicts():
  texts = list(malformed(1000))
  guard = RiskControl(None, review.by_model(lambda asked: texts,
                                            review.rules()))
  decisions = guard.decide([Turn(OTHER, "y") for _ in texts])
  assert all(d.text == MESSAGE for d in decisions)
  assert guard.counts["failed"] == guard.counts["retracted"] == 1000
  assert sum(guard.failures.values()) == 1000


def test_an_endpoint_that_fails_or_talks_junk():
  said = [verdict("[-1]"), verdict("[6]"), "junk", 500, b"{", b"\xff", 400]
  with chat_server.serving() as serve:
    server = serve(lambda number, body: said[int(
        chat_server.question(body).split("n=")[1][0])])
    endpoint = Endpoint(server.config(timeout=60.0, tries=1))
    guard = RiskControl(WORDS, review.by_model(endpoint, review.rules()))
    decisions = guard.decide([
        Turn(ask(f"a bomb, n={n}"), f"{n}") for n in range(len(said))])
  assert [d.text for d in decisions] == ["0"] + [MESSAGE] * 6
  assert decisions[1].reviewed.retracted == "rule 6: why"
  assert guard.counts["failed"] == 5
  assert guard.failures == {"no review": 4, "unparsed verdict": 1}


def test_an_endpoint_that_is_slow():
  with chat_server.serving() as serve:
    server = serve(lambda number, body: None)
    endpoint = Endpoint(server.config(timeout=0.1, tries=1))
    guard = RiskControl(WORDS, review.by_model(endpoint, review.rules()))
    assert guard.answer(HIT, "y") == MESSAGE
  assert guard.failures == {"no review": 1}
  assert sum(endpoint.failures.values()) == 1


def test_an_endpoint_that_is_not_there():
  with chat_server.serving() as serve:
    gone = serve(lambda number, body: "").config(tries=1)
  guard = RiskControl(WORDS, review.by_model(Endpoint(gone), review.rules()))
  assert guard.answer(HIT, "y") == MESSAGE
  assert guard.counts["failed"] == 1


def test_prompts_and_answers():
  prompts = [Prompt(id=n, domain="general", source="s", messages=m,
                    reference=None, verifier="")
             for n, m in enumerate((HIT, OTHER))]
  assert control([Review((2,), "w")]).control(prompts, ["a", "b"]) == [
      Reviewed("rule 2: w", "retracted"), Reviewed()]


def test_a_stream_without_keywords_passes_as_it_comes():
  guard, seen = control([Review((1,))]), []

  def pieces():
    yield "a"
    seen.append("second")
    yield "b"

  stream = guard.stream(OTHER, pieces())
  assert next(stream) == Part("a") and not seen
  assert list(stream) == [Part("b")]
  assert guard.counts["turns"] == 1


@pytest.mark.parametrize("how,rules,parts", [
    ("hold", (), [Part("ab")]),
    ("hold", (5,), [Part(MESSAGE, retracts=True)]),
    ("retract", (), [Part("a"), Part("b")]),
    ("retract", (5,), [Part("a"), Part("b"), Part(MESSAGE, retracts=True)])])
def test_streams(how, rules, parts):
  guard = control([Review(rules)], stream=how)
  assert list(guard.stream(HIT, iter("ab"))) == parts
  assert guard.counts["turns"] == guard.counts["hits"] == 1


def test_a_stream_that_is_left_is_counted():
  guard = control([Review((5,))], stream="retract")
  stream = guard.stream(HIT, iter("ab"))
  next(stream)
  stream.close()
  assert guard.counts == {"abandoned": 1}
  assert any("1 streams ended before" in line for line in guard.lines())


def test_counts_of_many_threads():
  guard = control([Review((1,))])
  threads = [threading.Thread(target=lambda: [
      guard.answer(HIT, "y") for _ in range(50)]) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert guard.counts["retracted"] == guard.counts["turns"] == 400


@pytest.mark.parametrize("field,value", [
    ("failed", "maybe"), ("stream", "both"), ("keywords", ()),
    ("message", " ")])
def test_settings_that_are_wrong(field, value):
  with pytest.raises(ValueError, match=field):
    RiskConfig(**{field: value})
