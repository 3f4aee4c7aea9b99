"""A judge behind HTTP that is up, down, slow, overloaded, or returns junk."""

import pytest

from r1jax.core.prompt import ask
from r1jax.rewards import endpoint, judge
from r1jax.rewards.endpoint import Endpoint, EndpointConfig
from tests import chat_server
from tests.chat_server import question


@pytest.fixture
def serve():
  with chat_server.serving() as start:
    yield start


def conversations(count):
  return [ask(f"question {i}") for i in range(count)]


def test_answers_are_in_order_and_few_at_a_time(serve):
  server = serve(lambda number, body: f"re: {question(body)}")
  client = Endpoint(server.config(concurrency=3), key="secret")
  got = client(conversations(20))
  assert got == [f"re: question {i}" for i in range(20)]
  assert server.keys == {"Bearer secret"} and 1 <= server.most <= 3
  assert {body["model"] for body in server.seen} == {"m"}
  assert client.asked == 20 and not client.failures


def test_a_rerun_asks_nothing_twice(serve, tmp_path):
  server = serve(lambda number, body: f"{number}")
  asked = [*conversations(6), ask("question 0")]  # one of them twice
  first = Endpoint(server.config(), key="secret", cache=tmp_path)(asked)
  assert sorted(first) == sorted(map(str, range(7)))
  again = Endpoint(server.config(), cache=tmp_path)
  assert again(asked) == first
  assert (again.asked, again.cached, len(server.seen)) == (0, 7, 7)
  one = next(iter(tmp_path.rglob("*.json")))
  # The key lies nowhere; another temperature is another question.
  assert not any("secret" in p.read_text() for p in tmp_path.rglob("*.json"))
  Endpoint(server.config(temperature=0.0), cache=tmp_path)(asked[:1])
  assert len(server.seen) == 8
  # A damaged answer is asked anew.
  one.write_text("{")
  Endpoint(server.config(), cache=tmp_path)(asked)
  assert len(server.seen) == 9


@pytest.mark.parametrize("bad", [429, 503, b"<html>", b'{"choices": []}',
                                 b'{"choices": [{"message": {}}]}', b"\xff"])
def test_what_may_pass_is_tried_again(bad, serve):
  server = serve(lambda number, body: "fine" if number >= 2 else bad)
  assert Endpoint(server.config(concurrency=1))(conversations(1)) == ["fine"]
  assert len(server.seen) == 3


def test_a_query_that_fails_for_good_is_no_answer(serve, tmp_path):
  def say(number, body):
    return {"question 1": 400, "question 3": b"junk"}.get(question(body), "ok")

  server = serve(say)
  client = Endpoint(server.config(concurrency=1), cache=tmp_path)
  assert client(conversations(5)) == ["ok", None, "ok", None, "ok"]
  assert client.failures == {"HTTP status 400": 1,
                             "a response that is no chat completion": 1}
  assert len(server.seen) == 3 + 1 + 3  # a bad request is not sent again
  # Failures are not kept.
  Endpoint(server.config(), cache=tmp_path)(conversations(5))
  assert len(server.seen) == 7 + 1 + 3


def test_many_bad_queries_do_not_mean_that_it_is_down(serve):
  server = serve(lambda number, body: 400)
  client = Endpoint(server.config())
  assert client(conversations(20)) == [None] * 20
  assert client.failures == {"HTTP status 400": 20} and len(server.seen) == 20


def test_slow_is_not_waited_for(serve):
  server = serve(lambda number, body: "ok" if "0" in question(body) else None)
  client = Endpoint(server.config(timeout=3.0, tries=1))
  assert client(conversations(2)) == ["ok", None]
  assert client.failures == {"no answer within 3 s": 1}


@pytest.mark.parametrize("kind", ["down", "junk", "key"])
def test_an_endpoint_without_any_answer_is_one_clear_error(
    kind, serve, tmp_path):
  server = serve(lambda number, body: "ok" if number < 4 else
                 401 if kind == "key" else b"junk")
  config = server.config(concurrency=2)
  client = Endpoint(config, cache=tmp_path)
  assert client(conversations(4)) == ["ok"] * 4
  if kind == "down":
    server.shutdown()
    server.server_close()
  with pytest.raises(OSError, match="none of the last 8 queries") as error:
    client(conversations(400))
  want = {"down": "refused", "junk": "no chat completion", "key": "401"}[kind]
  assert want in str(error.value) and "same command again" in str(error.value)
  assert len(server.seen) < 60  # it does not go on asking 400 times
  assert len(list(tmp_path.rglob("*.json"))) == 4  # what was answered stays


@pytest.mark.parametrize("kind", ["down", "key"])
def test_a_few_queries_are_enough_where_nobody_answers_any(kind, serve):
  """Else a small batch would go by as judged without a verdict."""
  server = serve(lambda number, body: 401)
  if kind == "down":
    server.shutdown()
    server.server_close()
  with pytest.raises(OSError, match="none of the last 2 queries"):
    Endpoint(server.config())(conversations(2))
  assert len(server.seen) == 2 * (kind == "key")


def test_one_of_two_that_is_refused_is_no_answer(serve):
  server = serve(lambda number, body: "ok" if "0" in question(body) else 403)
  client = Endpoint(server.config())
  assert client(conversations(2)) == ["ok", None]
  assert client.failures == {"HTTP status 403": 1}


def test_failures_leave_pairs_undecided_and_never_count_as_zero(serve):
  def say(number, body):
    if "question 1?" in question(body):
      return 500
    text = question(body)
    first = text.index("\ngood ") < text.index("\nbad ")
    return "so\n[[A>>B]]" if first else "so\n[[B>>A]]"

  server = serve(say)
  pairs = [judge.Pair(id=i, messages=ask(f"question {i}?"), first=f"good {i}",
                      second=f"bad {i}") for i in range(3)]
  got = judge.compare(Endpoint(server.config(tries=1)), pairs, seed=0)
  assert [p.chosen for p in got] == [0, None, 0]
  assert [p.unparsed for p in got] == [0, 4, 0]
  scores = judge.correct(
      Endpoint(server.config(tries=1)), ["question 1?"], ["x"], ["y"], seed=0)
  assert [s.valid for s in scores] == [False]


@pytest.mark.parametrize("changes", [dict(timeout=0.0), dict(tries=0),
                                     dict(wait=-1.0), dict(concurrency=0)])
def test_bad_settings(changes):
  with pytest.raises(ValueError, match=next(iter(changes))):
    EndpointConfig(url="http://x", **changes)


def test_no_url():
  with pytest.raises(ValueError, match="url='host:80'"):
    Endpoint(EndpointConfig(url="host:80"))
  assert endpoint._seconds({"Retry-After": "soon"}) == 0
  assert endpoint._seconds({"Retry-After": "7"}) == 7
