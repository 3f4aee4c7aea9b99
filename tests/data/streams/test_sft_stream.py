"""Examples that stay in their files: the batches are those of memory."""

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import threading

import jax
import numpy as np
import pytest
from absl import flags

from r1jax.data.streams import sft, sft_stream
from r1jax.data.streams.sft import Packed
from r1jax.data.text import hf_tokenizer
from tests.data.streams.test_sft import TURNS, write
from tests.data.text import hf_cases
from tests.stages import cases

CAPACITY = 96
WEIGHTS = {"math": 2.0, "code": 0.1, "more": 1.0}


def rows(count, offset=0):
  return [{"prompt": f"What is {i} + {offset}?", "source": ("math", "code")[
      i % 2], "completion": f"It is {i}." + " So." * (i * i % 23)}
          for i in range(count)]


@pytest.fixture
def paths(tmp_path):
  """Two files: blank lines, a malformed one, one too long, no last newline."""
  first = write(tmp_path / "a.jsonl", *rows(300), "", "   ", "[1]", {
      "prompt": "Long?", "completion": "so " * 200, "source": "math"})
  second = tmp_path / "b.jsonl"
  second.write_text("\n".join(json.dumps(row) for row in [
      {"prompt": "你好?", "completion": "好", "source": "more"}, *rows(5, 7)]))
  return [first, second]


def both(paths, **more):
  shared = paths, cases.tokenizer(), "plain", CAPACITY, WEIGHTS
  return sft.load(*shared), sft_stream.load(*shared, quiet=True, **more)


def test_the_examples_are_those_of_memory(paths):
  whole, stream = both(paths)
  assert stream.explain("x") == whole.explain("x")
  assert "306 examples" in whole.explain("x") and whole.too_long == 1
  assert stream.malformed == whole.malformed and len(whole.malformed) == 1
  assert stream.sources == whole.sources == {"math", "code", "more"}
  assert len(stream.examples) == len(whole.examples)
  for mine, other in zip(stream.examples, whole.examples):
    np.testing.assert_array_equal(mine.tokens, other.tokens)
    np.testing.assert_array_equal(mine.trained, other.trained)
    assert np.float32(mine.weight) == np.float32(other.weight)


def test_the_batches_are_those_of_memory(paths):
  whole, stream = both(paths)
  want, got = (Packed(x.examples, 3, CAPACITY, seed=4, epochs=2)
               for x in (whole, stream))
  steps = want.steps()
  assert got.steps() == steps > 20
  for number in (0, steps // 2, steps - 1):
    jax.tree.map(np.testing.assert_array_equal, want.batch(number),
                 got.batch(number))


@pytest.fixture
def parsed():
  """Grain's workers read absl's flags, which every experiment parses."""
  if flags.FLAGS.is_parsed():
    yield
    return
  flags.FLAGS(["pytest"])
  yield
  flags.FLAGS.unparse_flags()


def test_in_workers_too(paths, parsed):
  """Reading and batches; from any batch on."""
  whole, stream = both(paths, workers=1)
  want, got = (Packed(x.examples, 3, CAPACITY, seed=4)
               for x in (whole, stream))
  done, signalled = threading.Event(), set()

  def signal_all():
    """A signal to the whole group is for the process that saves."""
    while len(signalled) < 2 or not done.wait(0.002):
      for worker in multiprocessing.active_children():
        signalled.add(worker.pid)
        for number in (signal.SIGINT, signal.SIGTERM):
          os.kill(worker.pid, number)

  with contextlib.closing(got.stream(7, 12, workers=2)) as batches:
    thread = threading.Thread(target=signal_all)
    thread.start()  # before any worker
    read = [next(batches)]
    done.set()
    thread.join()
    read += batches
  assert len(signalled) == 2
  assert len(read) == 5 and not multiprocessing.active_children()
  for number, batch in enumerate(read, 7):
    jax.tree.map(np.testing.assert_array_equal, want.batch(number), batch)


def test_a_dialogue_of_several_sequences(tmp_path):
  """R1's template drops former thoughts: each answer is an example."""
  tokenizer = hf_tokenizer.load(hf_cases.deepseek(tmp_path / "tokenizer"))
  path = write(tmp_path / "a.jsonl", {"messages": TURNS},
               {"prompt": "a", "completion": "b"})
  shared = [path], tokenizer, "chat", 500
  whole, stream = sft.load(*shared), sft_stream.load(*shared, quiet=True)
  assert stream.examples.part_E.tolist() == [0, 1, 0]
  for mine, other in zip(stream.examples, whole.examples, strict=True):
    np.testing.assert_array_equal(mine.tokens, other.tokens)


def test_little_of_an_example_is_held(paths):
  _, stream = both(paths)
  examples = stream.examples
  held = sum(x.nbytes for x in vars(examples).values()
             if isinstance(x, np.ndarray))
  assert held <= 20 * len(examples)
  held = sum(lines.starts_L.nbytes for lines in examples.files)
  assert held <= 8 * (len(examples) + 8)
  # What goes to a worker has no rows in it.
  assert len(pickle.dumps(examples)) < 100_000 + sum(
      map(len, examples.reader.tokenizer.files.values()))


@pytest.mark.parametrize("text,message", [
    ('{"prompt": "x", "completion": " "}\n', "a.jsonl:1: an answer is empty"),
    ('{"prompt": "x", "completion": "y", "source": "art"}\n',
     "source 'art' has no weight"),
    ('{"prompt": "x"}\n', "1 of 1 rows are malformed"),
    ("", "a.jsonl is empty: it has no rows"),
    ('{"prompt": "x", "completion": "%s"}\n' % ("so " * 99),
     "none of 1 rows fits a row of 96 tokens")])
def test_bad_files(text, message, tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(text)
  for load in (sft.load, sft_stream.load):
    with pytest.raises(ValueError, match=message):
      load([path], cases.tokenizer(), "plain", CAPACITY, WEIGHTS)
  with pytest.raises(ValueError, match="/nowhere cannot be read"):
    sft_stream.load(["/nowhere"], cases.tokenizer(), "plain", CAPACITY)


def test_a_file_that_changes_is_seen(paths):
  _, stream = both(paths)
  text = paths[1].read_text()
  paths[1].write_text(text.replace("It is 3.", "xxxxxxxx"))
  with pytest.raises(ValueError, match="b.jsonl:5 has changed since"):
    list(stream.examples)
