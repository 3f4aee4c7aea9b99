"""The server as its clients see it: OpenAI's own, and ones that misbehave."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest

from r1jax.core.prompt import ask
from r1jax.data.text import templates
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.rollout.serving import CANCELLED
from r1jax.safety.keywords import Keywords
from r1jax.safety.review import Review
from r1jax.safety.risk_control import RiskConfig, RiskControl

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from r1jax.serving.app import Limits  # noqa: E402 - of an extra
from tests.serving.served import served  # noqa: E402

NEW = 24
Q = [{"role": "user", "content": "Compute 3+4"}]


def wait_for(holds):
  end = time.monotonic() + 60
  while not holds():
    assert time.monotonic() < end
    time.sleep(0.01)


def drawn(case, seed, number=0, **sampling):
  model, params, bias, tokenizer = case
  engine = Engine(model, SamplingConfig(
      max_new_tokens=NEW, vocab=tokenizer.vocab_size, **sampling),
      tokenizer.eos_ids)
  prompt = templates.prompt(ask(Q[0]["content"]), "plain", tokenizer).ids
  found = engine.generate(params, bias, [np.array(prompt, np.int32)], [0],
                          number + 1, jax.random.key(seed))
  ids = found.tokens_QGT[0, number, :found.lengths_QG[0, number]]
  return (tokenizer.decode([i for i in ids if i not in tokenizer.eos_ids]),
          found.logprobs_QGT[0, number, :len(ids)])


def test_the_official_client_reads_what_the_engine_draws(case, shared):
  _, client = shared
  wanted, logprobs = drawn(case, 5, 1)
  reply = client.chat.completions.create(
      model="m", messages=Q, seed=5, n=2, max_tokens=NEW, logprobs=True)
  second = reply.choices[1]
  assert second.message.content == wanted.strip()
  assert second.finish_reason in ("stop", "length")
  np.testing.assert_allclose(
      [t.logprob for t in second.logprobs.content], logprobs, rtol=0,
      atol=1e-5)
  counts = [len(c.logprobs.content) for c in reply.choices]
  assert reply.usage.completion_tokens == sum(counts)
  assert reply.usage.prompt_tokens == client.chat.completions.create(
      model="m", messages=Q, max_tokens=1).usage.prompt_tokens
  assert client.models.list().data[0].id == "m"
  assert client.models.retrieve("m").owned_by == "r1jax"


def test_a_stream_is_the_same_text(case, shared):
  _, client = shared
  asked = dict(model="m", messages=Q, seed=9, max_tokens=NEW, temperature=0.7,
               top_p=0.9)
  whole = client.chat.completions.create(**asked)
  text, ends, usage = "", [], None
  for chunk in client.chat.completions.create(
      **asked, stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    for choice in chunk.choices:
      text += choice.delta.content or ""
      ends.append(choice.finish_reason)
  assert text == whole.choices[0].message.content
  assert text == drawn(case, 9, temperature=0.7, top_p=0.9)[0].strip()
  assert ends[-1] == whole.choices[0].finish_reason and not any(ends[:-1])
  assert usage == whole.usage


def test_completions_and_stops(case, shared):
  _, client = shared
  tokenizer = case[3]
  prompt = templates.render(Q[0]["content"], "plain")
  wanted, _ = drawn(case, 3)
  stop = wanted[4:6]
  ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
  for form in ([prompt, prompt], ids):
    reply = client.completions.create(
        model="m", prompt=form, seed=3, max_tokens=NEW, stop=stop, logprobs=0)
    choice = reply.choices[-1]
    assert choice.text == wanted[:wanted.index(stop)]
    assert choice.finish_reason == "stop"
    tokens = choice.logprobs.tokens
    assert choice.logprobs.text_offset == [
        len("".join(tokens[:n])) for n in range(len(tokens))]
    # Up to the stop, however many were sampled at once.
    assert stop in "".join(tokens) and stop not in "".join(tokens[:-1])
    assert reply.usage.completion_tokens == len(tokens) * len(reply.choices)


def test_many_at_once_share_the_rows(case, shared):
  service, client = shared
  texts = [None] * 32

  def one(i):
    texts[i] = client.chat.completions.create(
        model="m", messages=Q, seed=i % 4, max_tokens=NEW
    ).choices[0].message.content

  threads = [threading.Thread(target=one, args=(i,)) for i in range(32)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert texts == [drawn(case, i)[0].strip() for i in range(4)] * 8
  assert service.live == service.waiting == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_rows(case, stream):
  ends = []
  with served(case, max_rows=2) as (service, client):
    real = service.ask

    def ask(wishes):
      for wish in wishes:
        tell = wish.tell
        wish.tell = lambda told, tell=tell: (
            ends.append(told.finished), tell(told))
      real(wishes)

    service.ask = ask
    body = json.dumps({
        "model": "m", "messages": Q, "n": 8, "max_tokens": 100,
        "stream": stream, "temperature": 2.0}).encode()
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port)) as connection:
      connection.sendall(
          b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
          b"Content-Type: application/json\r\nContent-Length: "
          + str(len(body)).encode() + b"\r\n\r\n" + body)
      wait_for(lambda: service.live or service.waiting)
    wait_for(lambda: not service.live and not service.waiting)
    assert CANCELLED in ends  # not: all were drawn to their ends
    assert client.chat.completions.create(
        model="m", messages=Q, max_tokens=2).usage.completion_tokens <= 2


def test_refusals_name_the_field(case, shared):
  _, client = shared

  def refused(error, **changes):
    with pytest.raises(error) as found:
      client.chat.completions.create(
          **dict(model="m", messages=Q, max_tokens=2) | changes)
    return found.value.body

  assert refused(openai.NotFoundError, model="x")["code"] == "model_not_found"
  assert refused(openai.BadRequestError, tools=[{
      "type": "function", "function": {"name": "f"}}])["param"] == "tools"
  long = refused(openai.BadRequestError, max_tokens=1000)
  assert long["code"] == "context_length_exceeded" and "128" in long["message"]
  assert "more than 2000 bytes" in refused(
      openai.APIStatusError, messages=[{"role": "user", "content": "a" * 3000}]
  )["message"]
  with pytest.raises(openai.BadRequestError, match="token id 900"):
    client.completions.create(model="m", prompt=[900])
  with pytest.raises(openai.NotFoundError):
    client.embeddings.create(model="m", input="a")


def test_more_than_ever_fits_is_refused(case):
  with served(case, waiting=0, max_rows=1) as (service, client):
    for stream in (True, False):
      with pytest.raises(openai.BadRequestError, match="at most 1 at once"):
        client.chat.completions.create(
            model="m", messages=Q, n=2, stream=stream, max_tokens=2)
    assert service.live == 0


@pytest.mark.parametrize("token", ["secret", "geheim-ß"])
def test_a_token_is_asked_for(case, token):
  with served(case, Limits(2000, token)) as (_, client):
    models = str(client.base_url) + "models"
    asked = urllib.request.Request(models, headers={
        "Authorization": f"Bearer {token}".encode().decode("latin-1")})
    assert json.load(urllib.request.urlopen(asked))["data"]
    with pytest.raises(openai.AuthenticationError):
      client.with_options(api_key="other").models.list()
    with pytest.raises(urllib.error.HTTPError, match="401"):
      urllib.request.urlopen(models)
    health = urllib.request.urlopen(
        str(client.base_url).replace("/v1/", "/health"))
    assert json.load(health)["status"] == "ok"


def test_a_thought_is_apart(case):
  with served(case, template="{question} <think>") as (_, client):
    asked = dict(model="m", messages=Q, seed=2, max_tokens=NEW)
    message = client.chat.completions.create(**asked).choices[0].message
    assert message.reasoning_content and not message.content
    deltas = [c.choices[0].delta for c in client.chat.completions.create(
        stream=True, **asked)]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas
                   ) == message.reasoning_content
    assert not any(d.content for d in deltas)


@pytest.mark.parametrize("stream", ["hold", "retract"])
def test_risk_control_takes_an_answer_back(case, stream):
  def review(turns):
    return [Review(rules=(3,), reason="no") for _ in turns]

  control = RiskControl(Keywords(["compute"]), review, RiskConfig(
      reviewer="x", stream=stream, message="Not here."))
  asked = dict(model="m", max_tokens=NEW, seed=1)
  with served(case, Limits(2000, logprobs=False), control) as (_, client):
    reply = client.chat.completions.create(messages=Q, **asked)
    assert reply.choices[0].message.content == "Not here."
    assert reply.choices[0].finish_reason == "content_filter"
    chunks = [c.choices[0] for c in client.chat.completions.create(
        messages=Q, stream=True, **asked)]
    text = "".join(c.delta.content or "" for c in chunks)
    assert text.endswith("Not here.")
    assert (text == "Not here.") == (stream == "hold")
    assert chunks[-1].finish_reason == "content_filter"
    other = [{"role": "user", "content": "Hello"}]
    assert client.chat.completions.create(
        messages=other, **asked).choices[0].finish_reason in ("stop", "length")
    with pytest.raises(openai.BadRequestError, match="risk control"):
      client.chat.completions.create(messages=Q, logprobs=True, **asked)


def test_when_the_model_fails_clients_are_told(case, monkeypatch):
  with served(case) as (service, client):
    def fail(*args):
      raise ValueError("lost")

    monkeypatch.setattr(service._programs, "decode", fail)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with pytest.raises(openai.InternalServerError, match="the model failed"):
      client.chat.completions.create(model="m", messages=Q, max_tokens=2)
    with pytest.raises(openai.InternalServerError, match="has ended"):
      client.chat.completions.create(model="m", messages=Q, max_tokens=2)
    with pytest.raises(urllib.error.HTTPError):
      urllib.request.urlopen(str(client.base_url).replace("/v1/", "/health"))
