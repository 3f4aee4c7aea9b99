"""A text is taken apart in one place, whoever asks."""

import pytest

from r1jax.core import thoughts
from r1jax.data.sources import filters
from r1jax.rewards import response


@pytest.mark.parametrize("text,parts", [
    ("<think>\na\n</think>\n\nb", ("a", "b", True)),
    # What the prompt has opened needs no tag of its own.
    ("a thought\n</think>b", ("a thought", "b", True)),
    ("no thought", ("", "no thought", False)),
    ("<think>a", ("a", "", False)),
    ("x <think>a", ("a", "x", False)),
    ("<think>a</think> 4 <think> 5", ("a", "4", True)),
    ("a </think> b </think> c", ("a </think> b", "c", True)),
    ("", ("", "", False)),
])
def test_split(text, parts):
  assert thoughts.split(text) == parts
  assert response.split("", text)[1:3] == parts[:2]


def test_a_thought_that_never_ends_is_no_example():
  assert filters.empty_thinking("<think> it is 4") == "empty thought"
  assert filters.empty_thinking("<think> it is </think> 4") is None


def test_cut_keeps_every_character():
  text = " <think>\n a </think>\n b "
  assert "".join(thoughts.cut(text)) == text
