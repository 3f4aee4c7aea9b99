"""Wishes that come at any time, against the engine that knows all at once.

The model that can draft does, the engine does not.
"""

import dataclasses
import functools
import threading

import jax
import numpy as np
import pytest

from r1jax.models import presets
from r1jax.models.model import build
from r1jax.rollout import room
from r1jax.rollout import serving as serving_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig, sample, sample_each
from r1jax.rollout.serving import (
    CANCELLED,
    LENGTH,
    STOP,
    Ended,
    Full,
    Serving,
    Wish,
)

LOGP = dict(rtol=0, atol=1e-5)  # float32, as between sampler and trainer
EOS = frozenset({2, 3, 40})
NEW = 30
PROMPTS = [np.arange(5, 5 + n) for n in (3, 70, 9, 1, 20)]


class Heard:
  """What one wish was told."""

  def __init__(self):
    self.tokens, self.logprobs, self.end = [], [], threading.Event()
    self.told = None

  def __call__(self, told):
    self.tokens += told.tokens
    self.logprobs += told.logprobs
    if told.finished:
      self.told = told
      self.end.set()


@pytest.fixture(scope="module", params=["tiny", "tiny-dense"])
def case(request):
  model = build(dataclasses.replace(
      presets.get(request.param), max_position=128))
  params = jax.jit(model.init)(jax.random.key(0))
  params = model.unstack(params)
  bias = model.init_router_bias()
  serving = Serving(model, params, bias, EOS, max_rows=3, max_waiting=5,
                    context=128, vocab=97, speculate=2 * model.cfg.n_mtp)
  worker = threading.Thread(target=serving.work, daemon=True)
  worker.start()
  yield model, params, bias, serving
  serving.close()
  worker.join()


def wish(prompt=PROMPTS[0], **changes):
  heard = Heard()
  return Wish(**dict(prompt=prompt, limit=NEW, temperature=1.0, top_p=1.0,
                     seed=7, number=0, tell=heard) | changes), heard


@functools.cache
def engine_of(model, temperature, top_p):
  return Engine(model, SamplingConfig(
      max_new_tokens=NEW, vocab=97, temperature=temperature, top_p=top_p), EOS)


def drawn(case, prompt, seed, number=0, temperature=1.0, top_p=1.0):
  """The engine's own."""
  model, params, bias, _ = case
  engine = engine_of(model, temperature, top_p)
  found = engine.generate(params, bias, [prompt], [0], number + 1,
                          jax.random.key(seed))
  length = found.lengths_QG[0, number]
  return (found.tokens_QGT[0, number, :length].tolist(),
          found.logprobs_QGT[0, number, :length],
          LENGTH if found.truncated_QG[0, number] else STOP)


def test_a_wish_is_what_the_engine_draws(case):
  """More wishes than rows, of other lengths, seeds, temperatures, at once."""
  wanted = [(PROMPTS[i], i + 3, dict(temperature=t, top_p=p)) for i, (t, p) in
            enumerate(((1.0, 1.0), (0.5, 0.8), (0.5, 0.8), (1.0, 1.0),
                       (0.0, 0.9)))]
  wishes = [wish(prompt, seed=seed, **how) for prompt, seed, how in wanted]
  case[3].ask(w for w, _ in wishes)
  for (prompt, seed, how), (_, heard) in zip(wanted, wishes, strict=True):
    assert heard.end.wait(120)
    tokens, logprobs, finished = drawn(case, prompt, seed, **how)
    assert heard.tokens == tokens and heard.told.finished == finished
    np.testing.assert_allclose(heard.logprobs, logprobs, **LOGP)


def test_prompts_that_wait_together_are_read_together(case, monkeypatch):
  """By programs that were compiled before, and only as many as fit a row."""
  serving = case[3]
  serving.warm()
  compiled, prefill, seen = (
      serving.compilations(), serving._programs.prefill, [])
  monkeypatch.setattr(serving._programs, "prefill", lambda *args: (
      seen.append(args[2].shape[1]), prefill(*args))[1])
  for packed, read in ((512, [128]), (70, [128, 64])):
    monkeypatch.setattr(serving, "_packed", packed)
    wishes = [wish(np.arange(5, 5 + n), limit=9) for n in (40, 30, 50)]
    serving.ask(w for w, _ in wishes)
    assert all(heard.end.wait(120) for _, heard in wishes)
    for w, heard in wishes:
      assert heard.tokens == drawn(case, w.prompt, w.seed)[0][:9]
    assert seen == read
    seen.clear()
  monkeypatch.undo()
  assert serving.compilations() == compiled


def test_numbers_differ_and_seeds_repeat(case):
  wishes = [wish(seed=11, number=n) for n in (0, 1, 0)]
  case[3].ask(w for w, _ in wishes)
  assert all(heard.end.wait(120) for _, heard in wishes)
  first, second, again = (heard.tokens for _, heard in wishes)
  assert first == again != second
  assert second == drawn(case, PROMPTS[0], 11, 1)[0]


def test_who_is_cancelled_frees_a_row(case):
  serving, begun = case[3], threading.Event()
  wishes = [wish(temperature=0.0, limit=100) for _ in range(8)]
  heard = [h for _, h in wishes]
  first, tell = wishes[0][0], wishes[0][0].tell

  def cancel(told):  # in the thread that works, between two turns
    tell(told)
    for w, _ in wishes:
      w.cancelled = True
    begun.set()

  first.tell = cancel
  serving.ask(w for w, _ in wishes)
  assert begun.wait(60) and all(h.end.wait(60) for h in heard)
  # Three had rows, five waited.
  assert [h.told.finished for h in heard] == [CANCELLED] * 8
  assert [bool(h.tokens) for h in heard] == [True] * 3 + [False] * 5
  again, after = wish()
  serving.ask([again])
  assert after.end.wait(60)
  assert after.tokens == drawn(case, PROMPTS[0], 7)[0]
  # Not only forgotten: the device does not go on with them either.
  assert np.asarray(serving._rows.done_B).all()


def test_compilations_are_counted_by_shape(case):
  serving = case[3]
  for n in (3, 70):  # of both sizes of prompts, whatever ran before
    w, heard = wish(np.arange(5, 5 + n))
    serving.ask([w])
    assert heard.end.wait(120)
  before = serving.compilations()
  for n in (4, 60, 80):
    w, heard = wish(np.arange(5, 5 + n), temperature=0.3, seed=n)
    serving.ask([w])
    assert heard.end.wait(120)
  assert serving.compilations() == before


def test_what_does_not_fit_is_refused(case):
  serving = case[3]
  with pytest.raises(ValueError, match="prompt is empty"):
    serving.ask([wish(np.arange(0))[0]])
  with pytest.raises(ValueError, match="100 tokens and 30 new ones do not fit"):
    serving.ask([wish(np.arange(100))[0]])
  with pytest.raises(Full, match="already waiting"):
    serving.ask(wish()[0] for _ in range(9))
  assert serving.waiting == 0


def test_a_failure_is_told_to_all(monkeypatch, case):
  model, params, bias, _ = case
  serving = Serving(model, params, bias, EOS, max_rows=1, max_waiting=5,
                    context=64)
  wishes = [wish() for _ in range(3)]
  serving.ask(w for w, _ in wishes)

  def fail(*args):
    raise RuntimeError("out of memory")

  monkeypatch.setattr(serving._programs, "prefill", fail)
  with pytest.raises(RuntimeError, match="out of memory"):
    serving.work()
  assert all(h.told.error for _, h in wishes)
  assert isinstance(serving.failure, RuntimeError)
  with pytest.raises(Ended, match="has ended"):
    serving.ask([wish()[0]])


@pytest.mark.parametrize("context", [64, 128])
def test_rows_fit_into_the_devices_memory(monkeypatch, case, context):
  """Twice the context is half as many rows; a CPU does not tell its memory."""
  model, params, bias, _ = case

  def made(**changes):
    return Serving(model, params, bias, EOS, **dict(
        max_waiting=5, context=context) | changes)

  assert made().capacity == serving_lib.MOST + 5
  cache = jax.tree.leaves(jax.eval_shape(
      made()._programs.prefill, params, bias, np.zeros((1, 64), np.int32),
      np.ones(1, np.int32))[0])
  slot = sum(x.size * x.dtype.itemsize for x in cache) / 64
  row = slot * context * (1 + 1 / model.cfg.n_layers) + (
      12 * model.cfg.vocab_size)
  monkeypatch.setattr(room, "_free", lambda mesh: 6.5 * row / room.ROOM)
  assert made().capacity == 6 + 5
  assert made(max_rows=6).capacity == 6 + 5
  with pytest.raises(ValueError, match=f"max_rows=7 completions of"
                     f" context={context} tokens do not fit.* 6 may"):
    made(max_rows=7)
  monkeypatch.setattr(room, "_free", lambda mesh: 0.0)
  assert made().capacity == 1 + 5


@pytest.mark.parametrize("platform, most, sizes", [
    ("cpu", 32, [1, 4, 8, 16, 32]), ("cpu", 20, [1, 4, 8, 16, 20]),
    ("cpu", 1, [1]), ("tpu", 100, [8, 32, 100]), ("gpu", 4, [4])])
def test_few_numbers_of_rows_are_compiled(platform, most, sizes):
  assert serving_lib.sizes(platform, most) == sizes


def test_a_batch_has_as_many_rows_as_are_wanted(case):
  model, params, bias, _ = case
  serving = Serving(model, params, bias, EOS, max_rows=20, max_waiting=9,
                    context=64)
  for wishes, rows in ((1, 1), (3, 4), (2, 8), (20, 20)):
    serving.ask(wish()[0] for _ in range(wishes))
    serving._resize()
    assert len(serving._held) == rows


def test_a_bad_size_names_the_remedy(case):
  model, params, bias, _ = case
  with pytest.raises(ValueError, match="max_rows=-1"):
    Serving(model, params, bias, EOS, max_rows=-1, max_waiting=0, context=64)
  with pytest.raises(ValueError, match="context=100000"):
    Serving(model, params, bias, EOS, max_rows=1, max_waiting=0,
            context=100_000)


@pytest.mark.parametrize("temperature, top_p", [
    (0.6, 0.95), (0.0, 0.5), (1.0, 1.0)])
def test_each_row_draws_as_all_would(temperature, top_p):
  logits = 3 * jax.random.normal(jax.random.key(1), (200, 301))
  keys = jax.random.split(jax.random.key(2), 200)
  wanted = sample(logits, keys, temperature, top_p, 300)
  # Every second row is drawn otherwise, and changes nothing.
  other = np.arange(200) % 2 == 1
  found = sample_each(
      logits, keys, np.where(other, 0.9, temperature).astype(np.float32),
      np.where(other, 0.4, top_p).astype(np.float32), 300)
  np.testing.assert_array_equal(found[0][~other], wanted[0][~other])
  np.testing.assert_allclose(found[1][~other], wanted[1][~other], **LOGP)
  assert (np.array(found[0]) != np.array(wanted[0]))[other].any()


def test_the_chunk_divides_nothing_of_a_sample(case, monkeypatch):
  monkeypatch.setattr(serving_lib, "CHUNK", 3)
  w, heard = wish(seed=5)
  case[3].ask([w])
  assert heard.end.wait(120)
  assert heard.tokens == drawn(case, PROMPTS[0], 5)[0]
