"""What is written of an answer, without a model."""

import json

import pytest

pytest.importorskip("starlette")

from r1jax.serving import app, requests  # noqa: E402 - of an extra
from r1jax.serving.answers import Part  # noqa: E402
from r1jax.serving.text import Piece  # noqa: E402


class Dropping:
  """A tokenizer of bytes that drops a space at the start, as many do."""

  eos_ids = frozenset({0})

  def decode(self, ids):
    return bytes(i for i in ids if i).decode(errors="replace").removeprefix(" ")


@pytest.mark.parametrize("size", [1, 3, 99])
def test_texts_of_log_probabilities_add_up_to_the_answer(size):
  request = requests.read(json.dumps(
      {"model": "m", "prompt": "p", "logprobs": 0}).encode(), chat=False)
  reply = app._Reply(request, Dropping(), 1, "m")
  ids = [*" a né b 日".encode(), 0]
  tokens = []
  for first in range(0, len(ids), size):
    some = ids[first:first + size]
    tokens += reply._drawn(Part(0, Piece(), some, [0.0] * len(some)))
  text = "a né b 日"
  assert len(tokens) == len(ids)
  assert "".join(token["token"] for token in tokens) == text
  assert [byte for token in tokens for byte in token["bytes"] or ()] == [
      *text.encode()]


def test_an_event_is_one_line_for_every_reader():
  value = {"text": "a\u2028b\u0085c\r\nd\fé"}
  line, end = app._event(value).splitlines()
  assert json.loads(line.removeprefix("data: ")) == value and not end
