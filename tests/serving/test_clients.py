"""Clients that do not read, pages of other hosts, a server that ends."""

import contextlib
import json
import logging
import socket
import threading

import pytest

from r1jax.safety.keywords import Keywords
from r1jax.safety.risk_control import RiskConfig, RiskControl

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from r1jax.serving import app, connection  # noqa: E402 - of an extra
from tests.serving.served import served  # noqa: E402
from tests.serving.test_http import CHAT, fuzzed, leave, send, wait_for  # noqa: E402


@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("LOCALHOST:80", 200), ("127.0.0.1:8000", 200),
    ("[::1]:8000", 200), ("example.org", 403), ("127.0.0.1.example.org", 403),
    ("example.org:127", 403), ("10.0.0.1:8000", 403), ("", 403), ("[", 403)])
def test_a_page_of_another_host_gets_nothing(shared, host, status):
  found, _, text = send(
      shared[1], "/v1/models", None, "GET", {"Host": host})
  assert found == status, text
  assert status == 200 or "Host" in json.loads(text)["error"]["message"]


def test_with_a_token_any_host_is_served(case):
  with served(case, app.Limits(2000, "secret")) as (_, client):
    heads = {"Host": "example.org", "Authorization": "Bearer secret"}
    assert send(client, "/v1/models", None, "GET", heads)[0] == 200


@pytest.mark.parametrize("asked, limit", [
    (dict(stream=True, n=20, max_tokens=100), "STALL_SECONDS"),
    (dict(n=10, max_tokens=24), "HEADER_SECONDS")])
def test_who_does_not_read_is_let_go(case, monkeypatch, asked, limit):
  """Whether more is to come, or the rest waits to be read; others go on."""
  monkeypatch.setattr(connection, limit, 0.5)
  opened, opens = [], connection.Connection.connection_made

  def made(self, transport):
    opens(self, transport)
    opened.append(self)

  monkeypatch.setattr(connection.Connection, "connection_made", made)
  body = fuzzed(logprobs=True, temperature=2, **asked)
  with served(case, kept=4096) as (service, client), socket.socket() as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((client.base_url.host, client.base_url.port))
    sock.sendall(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    wait_for(lambda: opened)
    deaf = opened[0]
    assert send(client, CHAT, fuzzed())[0] == 200
    wait_for(lambda: deaf not in deaf.connections)
    wait_for(lambda: not service.live and not service.waiting)


def test_answers_that_wait_leave_others_their_threads(case, monkeypatch):
  free = threading.Event()
  control = RiskControl(Keywords(["bomb"]), None, RiskConfig(reviewer="x"))
  with served(case, app.Limits(2000, logprobs=False), control, max_rows=1,
              waiting=60) as (service, client):
    decode = service._programs.decode
    monkeypatch.setattr(
        service._programs, "decode",
        lambda *args: (free.wait(60), decode(*args))[1])
    many, one = (leave(client, fuzzed(n=n)) for n in (45, 1))
    next(many)
    wait_for(lambda: service.live + service.waiting == 45)
    next(one)
    wait_for(lambda: service.live + service.waiting == 46)
    for left in (many, one):
      next(left)
    free.set()
    wait_for(lambda: not service.live and not service.waiting)


@pytest.mark.parametrize("stream", [True, False])
def test_who_is_cut_off_by_the_end_is_told(case, monkeypatch, caplog, stream):
  monkeypatch.setattr(connection, "GRACE", 0.1)
  monkeypatch.setattr(connection, "_LEAVE", 60)  # never reached
  leaving, free, replies = [], threading.Event(), []
  tick = connection.Listener.on_tick

  async def on_tick(self, counter):
    return self._close in leaving or await tick(self, counter)

  monkeypatch.setattr(connection.Listener, "on_tick", on_tick)
  with caplog.at_level(logging.ERROR), served(case, max_rows=1) as (
      service, client):
    decode, first = service._programs.decode, []
    monkeypatch.setattr(service._programs, "decode", lambda *args: (
        first and free.wait(60), first.append(1), decode(*args))[2])
    asked = threading.Thread(target=lambda: replies.append(send(
        client, CHAT, fuzzed(stream=stream, max_tokens=100, temperature=2))))
    asked.start()
    wait_for(lambda: first)
    leaving.append(service.close)
    wait_for(lambda: service._closed)
    free.set()
    asked.join()
  status, _, text = replies[0]
  assert status == (200 if stream else 503)
  assert "the service has ended" in text
  assert not caplog.records, caplog.text


def test_what_is_no_http_after_an_answer_ends_the_connection(shared, caplog):
  url = shared[1].base_url
  with caplog.at_level(logging.ERROR), socket.create_connection(
      (url.host, url.port), timeout=20) as client:
    client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n"
                   "Transfer-Encoding: chunked\r\n\r\n".encode())
    received = client.recv(4096)
    while b'"error"' not in received:
      received += client.recv(4096)
    assert b"415" in received
    client.sendall(b"no length\r\n")
    assert client.recv(4096) == b""
  assert not caplog.records, caplog.text


def test_of_too_many_connections_the_oldest_without_a_request_ends(
    case, monkeypatch):
  monkeypatch.setattr(connection, "MOST", 4)
  free, replies = threading.Event(), []
  with served(case, max_rows=1) as (service, client), (
      contextlib.ExitStack()) as stack:
    decode = service._programs.decode
    monkeypatch.setattr(
        service._programs, "decode",
        lambda *args: (free.wait(60), decode(*args))[1])
    asked = threading.Thread(
        target=lambda: replies.append(send(client, CHAT, fuzzed())))
    asked.start()
    wait_for(lambda: service.live)
    idle = [stack.enter_context(socket.create_connection(
        (client.base_url.host, client.base_url.port), timeout=20))
            for _ in range(6)]
    assert send(client, "/health", None, "GET")[0] == 200
    assert all(one.recv(1) == b"" for one in idle[:4])
    idle[-1].setblocking(False)
    with pytest.raises(BlockingIOError):  # it is still open
      idle[-1].recv(1)
    free.set()
    asked.join()
  assert replies[0][0] == 200
