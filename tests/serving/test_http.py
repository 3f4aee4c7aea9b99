"""What clients send that they should not: every answer names what is wrong."""

import contextlib
import http.client
import json
import socket
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1jax.rollout.serving import CANCELLED

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from r1jax.serving import app, connection  # noqa: E402 - of an extra
from tests.serving.served import BODY, served  # noqa: E402

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
JSON = {"Content-Type": "application/json"}
ASKED = {"model": "m", "max_tokens": 2,
         "messages": [{"role": "user", "content": "Compute 3+4"}]}


def send(client, path, body, method="POST", headers=JSON):
  """(status, headers, decoded body) of a request as it is given."""
  with contextlib.closing(http.client.HTTPConnection(
      client.base_url.host, client.base_url.port, timeout=60)) as connection:
    connection.request(method, path, body, dict(headers))
    reply = connection.getresponse()
    return reply.status, reply.headers, reply.read().decode()


def fuzzed(**changes):
  return json.dumps(ASKED | changes).encode()


def wait_for(holds):
  end = time.monotonic() + 60
  while not holds():
    assert time.monotonic() < end
    time.sleep(0.01)


@pytest.mark.parametrize("changes, status", [
    (dict(temperature=10**400), 400), (dict(temperature=1e308), 400),
    (dict(top_p=-10**400), 400), (dict(seed=10**400), 200),
    (dict(max_tokens=10**400), 400), (dict(max_tokens=2**31), 400),
    (dict(max_tokens=127), 400), (dict(n=128), 400), (dict(n=None), 200),
    (dict(stop=None, seed=None, top_p=None, stream=None, logprobs=None), 200),
    (dict(stop=False), 400), (dict(stop={}), 400), (dict(stop=["a", 1]), 400),
    (dict(stop=["日本", "\u0000", "👩‍👩‍👧"]), 200), (dict(stop="\ud83d"), 400),
    ({"\ud800": 1}, 400), (dict(model="\ud800"), 400), ({"x" * 900: 1}, 400),
    (dict(stream_options={"\ud800": 1}), 400), (dict(stream_options={}), 200),
    (dict(stream_options={"include_usage": True}), 200),
    (dict(logprobs=True, top_logprobs=0), 200),
    (dict(logprobs=True, top_logprobs=2), 400), (dict(top_logprobs=-1), 400),
    (dict(frequency_penalty=0.0), 200), (dict(presence_penalty=0.1), 400),
    (dict(logit_bias={}), 200), (dict(logit_bias={"1": 5}), 400),
    (dict(tools=[]), 200), (dict(tool_choice="required"), 400),
    (dict(response_format={"type": "json_schema"}), 400),
    (dict(messages=[{"role": "user", "content": [
        {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]), 200),
    (dict(messages=[{"role": "user", "content": [[{
        "type": "text", "text": "a"}]]}]), 400),
    (dict(messages=[{"role": "user", "content": [{
        "type": "text", "text": ["a"]}]}]), 400),
    (dict(messages=[{"role": "user", "content": None}]), 400),
    (dict(messages=[{"role": {}, "content": "a"}]), 400),
    (dict(messages=[[]]), 400), (dict(messages={}), 400),
    (dict(messages=[{"role": "user", "content": ""}]), 200),
    (dict(messages=[{"role": "user", "content": "\u0000 <s> </s>"}]), 200),
    (dict(messages=[{"role": "user", "content": "b c d "}] * 40), 400),
    (dict(model="other"), 404), (dict(model=""), 404), (dict(model=None), 400),
])
def test_odd_fields(shared, changes, status):
  service, client = shared
  found, _, text = send(client, CHAT, fuzzed(**changes))
  assert found == status, text
  reply = json.loads(text)
  assert ("choices" in reply) if status == 200 else reply["error"]["message"]
  assert len(text) < 2000  # a long value is not sent back whole
  assert service.failure is None


@pytest.mark.parametrize("changes, status", [
    (dict(prompt="a", echo=True), 400), (dict(prompt="a", echo=False), 200),
    (dict(prompt="a", suffix="b"), 400), (dict(prompt="a", best_of=2), 400),
    (dict(prompt="a", logprobs=0), 200), (dict(prompt="a", logprobs=5), 400),
    (dict(prompt=["a"] * 45), 400), (dict(prompt=["a", "b"], n=2), 200),
    (dict(prompt=[3, 2**40]), 400), (dict(prompt=[-1]), 400),
    (dict(prompt=[[3], [4, 5]]), 200), (dict(prompt="a " * 500), 400),
    (dict(prompt="\ud800"), 400), (dict(prompt="\u0000"), 200)])
def test_odd_prompts(shared, changes, status):
  body = {"model": "m", "max_tokens": 2} | changes
  found, _, text = send(shared[1], TEXT, json.dumps(body))
  assert found == status, text


@pytest.mark.parametrize("path, method, headers, body, status", [
    (CHAT, "GET", {}, None, 405), (CHAT, "HEAD", {}, None, 405),
    (CHAT, "PUT", JSON, fuzzed(), 405), ("/", "GET", {}, None, 404),
    ("/v1/models", "POST", JSON, b"{}", 405),
    ("/v1/models", "HEAD", {}, None, 200),
    ("/v1/models/x", "GET", {}, None, 404),
    ("/v1/embeddings", "POST", JSON, b"{}", 404),
    (CHAT, "POST", {}, fuzzed(), 415),
    (CHAT, "POST", {"Content-Type": "text/plain"}, fuzzed(), 415),
    (CHAT, "POST", {"Content-Type": "APPLICATION/JSON ; charset=utf-8"},
     fuzzed(), 200),
    (CHAT, "POST", JSON, b"", 400), (CHAT, "POST", JSON, b"\xff\xfe", 400),
    (CHAT, "POST", JSON, b"[" * 1500, 400), (CHAT, "POST", JSON, b"null", 400),
    (CHAT, "POST", JSON | {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08", 400),
    (CHAT, "POST", JSON, fuzzed() + b" " * BODY, 413)])
def test_odd_requests(shared, path, method, headers, body, status):
  found, heads, text = send(shared[1], path, body, method, headers)
  assert found == status, text
  if status >= 400:
    assert heads["Content-Type"] == "application/json"
    if method != "HEAD":
      assert json.loads(text)["error"]["message"]
  if status == 405:
    assert heads["Allow"]


def test_a_body_in_chunks(shared):
  whole = fuzzed()
  parts = [whole[i:i + 7] for i in range(0, len(whole), 7)]
  assert send(shared[1], CHAT, iter(parts))[0] == 200
  assert send(shared[1], CHAT, iter([b" " * 500] * 9))[0] == 413


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from([10**400, -1, 0, 2**63, "\ud800", "", "user", "text", "m",
                       1e-320]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "include_usage"])
        | st.text(max_size=3), part, max_size=3), max_leaves=8)
FIELDS = st.sampled_from([
    "model", "messages", "prompt", "temperature", "top_p", "n", "seed", "stop",
    "stream", "stream_options", "logprobs", "tools", "logit_bias", "echo",
    "best_of", "user", "other"])


@settings(max_examples=300, deadline=None,
          suppress_health_check=list(HealthCheck))
@given(st.sampled_from([CHAT, TEXT]), st.binary(max_size=60)
       | st.dictionaries(FIELDS, VALUES, max_size=4))
def test_hundreds_of_bodies_leave_nothing_behind(shared, path, given):
  service, client = shared
  body = given
  if isinstance(given, dict):
    asked = ASKED if path == CHAT else {
        "model": "m", "max_tokens": 2, "prompt": "a"}
    body = json.dumps(asked | given).encode()
  status, _, text = send(client, path, body)
  if status == 200:
    assert '"choices"' in text
  else:
    assert 400 <= status < 500 and json.loads(text)["error"]["message"]
  wait_for(lambda: not service.live and not service.waiting)
  assert service.failure is None


def test_a_slow_body_is_given_up(shared, monkeypatch):
  monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
  url = shared[1].base_url
  with socket.create_connection((url.host, url.port)) as connection:
    connection.sendall(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\n"
        f"Content-Length: 500\r\n\r\n{{".encode())
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    assert reply.status == 408 and "did not arrive" in reply.read().decode()


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET ", GET, GET + b"\r\n",
                                  GET + b"\r\n" + GET])
def test_a_client_that_sends_no_header_is_let_go(shared, monkeypatch, sent):
  """Nor the rest of its first, or of the next on a connection that is kept."""
  monkeypatch.setattr(connection, "HEADER_SECONDS", 0.5)
  url = shared[1].base_url
  with socket.create_connection((url.host, url.port)) as client:
    client.sendall(sent)
    client.settimeout(4.0)  # uvicorn closes idle connections after 5
    received = b""
    while more := client.recv(4096):
      received += more
  assert received.count(b"HTTP/1.1 200 OK") == sent.count(b"\r\n\r\n")


@pytest.fixture
def held(case, monkeypatch):
  """(service, client, an event) of a server that decodes after the event."""
  free = threading.Event()
  with served(case, max_rows=1, waiting=1) as (service, client):
    decode = service._programs.decode
    monkeypatch.setattr(
        service._programs, "decode",
        lambda *args: (free.wait(60), decode(*args))[1])
    yield service, client, free
    free.set()


def test_while_an_answer_is_made_no_header_is_expected(held, monkeypatch):
  opened, opens = [], connection.Connection.connection_made

  def made(self, transport):
    opens(self, transport)
    opened.append(self)

  monkeypatch.setattr(connection.Connection, "connection_made", made)
  service, client, free = held
  asked = threading.Thread(target=send, args=(client, CHAT, fuzzed()))
  asked.start()
  wait_for(lambda: service.live)
  assert opened[-1]._expected.cancelled()
  free.set()
  asked.join()


def leave(client, body):
  """Sends a request and disconnects at once."""
  with socket.create_connection(
      (client.base_url.host, client.base_url.port)) as connection:
    connection.sendall(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    yield
  yield


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_it_waits_gets_no_row(held, stream):
  service, client, free = held
  first, second = (leave(client, fuzzed(stream=stream)) for _ in range(2))
  next(first)
  wait_for(lambda: service.live)
  next(second)
  wait_for(lambda: service.waiting)
  waiting, told = service._waiting[0], []
  waiting.tell = told.append
  next(second)
  wait_for(lambda: waiting.cancelled)  # though its turn has not come
  free.set()
  wait_for(lambda: told)
  assert told[0].finished == CANCELLED and not told[0].tokens
  next(first)
  wait_for(lambda: not service.live and not service.waiting)


def test_a_full_queue_is_429(held):
  service, client, free = held
  first, second = (leave(client, fuzzed()) for _ in range(2))
  next(first)
  wait_for(lambda: service.live)
  next(second)
  wait_for(lambda: service.waiting)
  for stream in (True, False):
    status, headers, text = send(client, CHAT, fuzzed(stream=stream))
    assert status == 429 and "ask again later" in text
    assert headers["Retry-After"]


def test_clients_that_leave_at_once_leave_nothing_behind(shared):
  service, client = shared
  for number in range(60):
    left = leave(client, fuzzed(
        stream=number % 2 == 0, max_tokens=100, temperature=2))
    next(left)
    time.sleep(number % 6 / 100)  # from before it is read to the first tokens
    next(left)
  wait_for(lambda: not service.live and not service.waiting)
  assert send(client, CHAT, fuzzed())[0] == 200
