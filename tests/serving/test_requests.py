"""Bodies that are read, and those that are refused by name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.serving.requests import Refused, read

CHAT = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
TEXT = {"model": "m", "prompt": "p"}


def body(base=CHAT, **changes):
  return json.dumps(base | changes).encode()


def test_all_fields_of_a_chat():
  request = read(body(
      temperature=0, top_p=0.5, n=3, seed=-1, max_completion_tokens=9,
      stop="x", stream=True, stream_options={"include_usage": True},
      logprobs=True, user="u", presence_penalty=0, tools=None,
      messages=[{"role": "developer", "content": "s"}, {
          "role": "user", "content": [{"type": "text", "text": "a"},
                                      {"type": "text", "text": "b"}]}]),
      chat=True)
  assert request.messages == ({"role": "system", "content": "s"},
                              {"role": "user", "content": "ab"})
  assert request[3:] == (0.0, 0.5, 3, 2**32 - 1, 9, ("x",), True, True, True)


def test_defaults_are_openais_and_seeds_differ():
  first, second = (read(body(), chat=True) for _ in range(2))
  assert first[3:6] == (1.0, 1.0, 1) and first[7:] == (
      None, (), False, False, False)
  assert first.seed != second.seed


@pytest.mark.parametrize("prompt, prompts", [
    ("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ([1, 2],)),
    ([[1], [2, 3]], ([1], [2, 3]))])
def test_forms_of_prompts(prompt, prompts):
  assert read(body(TEXT, prompt=prompt), chat=False).prompts == prompts


@pytest.mark.parametrize("changes, param", [
    (dict(messages=[]), "messages"), (dict(messages="q"), "messages"),
    (dict(messages=[{"role": "tool", "content": "q"}]), "messages"),
    (dict(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
     "messages"),
    (dict(messages=[{"role": "user", "content": "\ud800"}]), "messages"),
    (dict(messages=[{"role": "assistant", "content": "q"}]), "messages"),
    (dict(temperature=2.5), "temperature"), (dict(temperature="1"),
                                             "temperature"),
    (dict(temperature=10**400), "temperature"), (dict(stop=False), "stop"),
    (dict(temperature=True), "temperature"), (dict(top_p=0), "top_p"),
    (dict(n=0), "n"), (dict(n=1.5), "n"), (dict(max_tokens=0), "max_tokens"),
    (dict(seed="a"), "seed"), (dict(stop=[""]), "stop"),
    (dict(stop=["a"] * 17), "stop"), (dict(stream="yes"), "stream"),
    (dict(stream_options=[]), "stream_options"),
    (dict(stream_options={"x": 1}), "stream_options"),
    (dict(tools=[{"type": "function"}]), "tools"),
    (dict(response_format={"type": "json_object"}), "response_format"),
    (dict(top_logprobs=3), "top_logprobs"), (dict(top_k=4), "top_k"),
    (dict(model=None), "model"), (dict(model=3), "model")])
def test_what_is_wrong_is_named(changes, param):
  with pytest.raises(Refused) as refused:
    read(body(**changes), chat=True)
  assert refused.value.param == param and refused.value.status == 400
  assert param in refused.value.message


@pytest.mark.parametrize("prompt", [
    None, "", [], [[]], ["a", 1], [1, "a"], [True], {"a": 1}, ["a"] * 129])
def test_prompts_that_are_none(prompt):
  with pytest.raises(Refused, match="prompt must be"):
    read(body(TEXT, prompt=prompt), chat=False)


@pytest.mark.parametrize("data", [
    b"", b"\xff", b"[1]", b"{", b'{"model": NaN}', b"[" * 200_000])
def test_bodies_that_are_no_object(data):
  with pytest.raises(Refused, match="body"):
    read(data, chat=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(
        st.text(max_size=5), part, max_size=3), max_leaves=6)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([
    "model", "messages", "prompt", "temperature", "top_p", "n", "max_tokens",
    "max_completion_tokens", "seed", "stop", "stream", "stream_options",
    "logprobs", "tools", "logit_bias", "echo", "other"]), JSON), st.booleans())
def test_any_json_is_read_or_refused(changes, chat):
  try:
    read(json.dumps((CHAT if chat else TEXT) | changes).encode(), chat=chat)
  except Refused as refused:
    assert refused.status == 400 and refused.message
