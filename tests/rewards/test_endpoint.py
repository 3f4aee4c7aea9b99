"""A judge behind HTTP that is up, down, slow, overloaded, or returns junk."""

import http.server
import json
import threading

import pytest

from r1jax.core.types import ask
from r1jax.rewards import endpoint, judge
from r1jax.rewards.endpoint import Endpoint, EndpointConfig


class Server(http.server.ThreadingHTTPServer):
  """Answers with what `say` makes of (number of the request, body).

  `say` gives a text, a status, raw bytes, or None to be silent for ever.
  """

  daemon_threads = True

  def __init__(self, say):
    super().__init__(("127.0.0.1", 0), Handler)
    self.say, self.seen, self.keys = say, [], set()
    self.lock, self.gate = threading.Lock(), threading.Event()
    self.now = self.most = 0

  def config(self, **changes):
    host, port = self.server_address
    return EndpointConfig(url=f"http://{host}:{port}/v1", model="m",
                          **dict(wait=0.0, timeout=5.0, tries=3) | changes)


class Handler(http.server.BaseHTTPRequestHandler):

  def do_POST(self):  # noqa: N802 - the base class calls it
    server = self.server
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    with server.lock:
      number = len(server.seen)
      server.seen.append(body)
      server.keys.add(self.headers.get("Authorization"))
      server.now += 1
      server.most = max(server.most, server.now)
    said = server.say(number, body)
    with server.lock:
      server.now -= 1
    if said is None:
      server.gate.wait(30)
      return
    status = said if isinstance(said, int) else 200
    if isinstance(said, str):
      said = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
    data = said if isinstance(said, bytes) else b"{}"
    self.send_response(status)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *args):
    pass


@pytest.fixture
def serve():
  servers = []

  def start(say):
    server = Server(say)
    threading.Thread(target=server.serve_forever, args=(0.01,),
                     daemon=True).start()
    servers.append(server)
    return server

  yield start
  for server in servers:
    server.gate.set()
    server.shutdown()
    server.server_close()


def question(body):
  return body["messages"][-1]["content"]


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
  # The key lies nowhere; another temperature is another question.
  assert not any("secret" in p.read_text() for p in tmp_path.rglob("*.json"))
  Endpoint(server.config(temperature=0.0), cache=tmp_path)(asked[:1])
  assert len(server.seen) == 8
  # A damaged answer is asked anew.
  next(iter(tmp_path.rglob("*.json"))).write_text("{")
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
