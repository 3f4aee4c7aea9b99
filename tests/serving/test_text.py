"""Text as it grows, however it is cut, against the whole."""

import random

import pytest

from r1jax.core import thoughts
from r1jax.serving.text import Apart, Stopped


class Letters:
  """A tokenizer of characters."""

  eos_ids = frozenset({0})

  def decode(self, ids):
    return "".join(map(chr, ids))


def cut(text, seed):
  draw = random.Random(seed)
  while text:
    n = draw.randint(1, 4)
    yield text[:n]
    text = text[n:]


@pytest.mark.parametrize("text", [
    " <think>\nso 1+1\nis 2\n</think>\n\nThe answer\nis 2.\n", "no thought",
    "<think>never ends", "<think></think>x", "  <thin air", "a <think> b",
    "<think> a < b </thin </think> c </think> d", "", " ", "</think> rest"])
@pytest.mark.parametrize("seed", range(6))
def test_thought_and_content_do_not_depend_on_the_cuts(text, seed):
  apart, thought, content = Apart(), "", ""
  for piece in [*map(apart.add, cut(text, seed)), apart.end()]:
    thought += piece.thought
    content += piece.content
  if text.lstrip().startswith("<think>") and text.count("</think>") == 1:
    parts = thoughts.split(text)
    assert (thought, content) == (parts.thinking, parts.answer)
  elif "never" in text:
    assert (thought, content) == ("never ends", "")
  elif text.count("</think>") == 2:  # the first one closes
    assert (thought, content) == ("a < b </thin", "c </think> d")
  else:
    assert (thought, content) == ("", text.strip())


@pytest.mark.parametrize("stops, kept, met", [
    ((), "one two three", False), (("two",), "one ", True),
    (("twx", "three", "o t"), "one tw", True), (("threes", "e two threex"),
                                                "one two three", False),
    (("e",), "on", True)])
@pytest.mark.parametrize("seed", range(6))
def test_a_stop_ends_the_text(stops, kept, met, seed):
  text = Stopped(Letters(), ">", stops)
  shown = ""
  for part in cut("one two three", seed):
    shown += text.add([*map(ord, part), 0])
    assert f">{kept}".startswith(shown)
  assert shown + text.end() == f">{kept}" and text.met == met


class Bytes:
  """A tokenizer of bytes: a character may take several tokens."""

  eos_ids = frozenset({0})

  def decode(self, ids):
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("stops, kept", [
    (("本",), "日"), (("👩",), "日本のé "), (("é ", "👩"), "日本の"),
    (("👨", "のe"), "日本のé 👩"), (("日",), "")])
@pytest.mark.parametrize("seed", range(6))
def test_a_stop_is_found_in_characters_of_several_tokens(stops, kept, seed):
  text, shown, draw = Stopped(Bytes(), "", stops), "", random.Random(seed)
  ids = list("日本のé 👩".encode())
  while ids and not text.met:
    count = draw.randint(1, 3)
    shown += text.add(ids[:count])
    assert kept.startswith(shown)
    ids = ids[count:]
  assert shown + text.end() == kept and text.met == (kept != "日本のé 👩")


@pytest.mark.parametrize("size", range(1, 7))
def test_the_chunks_decide_neither_which_stop_is_met_nor_what_counts(size):
  """The stop that is complete first; nothing after it."""
  text, shown, ids = Stopped(Letters(), "", ("abcd", "bc")), "", "abcdef"
  while ids and not text.met:
    shown += text.add([*map(ord, ids[:size])])
    ids = ids[size:]
  assert shown + text.end() == "a" and text.met and text.taken == 3
