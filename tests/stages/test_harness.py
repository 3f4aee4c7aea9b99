"""Likelihoods and generations for lm-evaluation-harness, without it.

tests/experiments/test_harness.py compares with the harness's own model.
"""

from __future__ import annotations

import numpy as np
import pytest

from r1jax.models.compute import Compute
from r1jax.stages import harness as harness_lib
from r1jax.stages import weights
from r1jax.stages.harness import Harness, HarnessConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.stages import harness_cases  # noqa: E402

PARITY = dict(rtol=1e-5, atol=1e-4)
SMALL = HarnessConfig(batch=3, tokens=512)


@pytest.fixture(scope="module", params=harness_cases.FAMILIES)
def case(request, tmp_path_factory):
  """(Harness, the same model in torch, its tokenizer)."""
  folder, model = harness_cases.folder(
      tmp_path_factory.mktemp("hf"), request.param)
  policy, tokenizer = weights.with_tokenizer(f"hf:{folder}", Compute())
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  return Harness(policy, tokenizer, SMALL), model, theirs


def logp(model, ids):
  """Log-softmax of the logits after each id, one sequence at a time."""
  with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0].double()
  return torch.log_softmax(logits, -1).numpy()


def reference(model, context, continuation):
  table = logp(model, context + continuation)
  total, greedy = 0.0, True
  for i, token in enumerate(continuation):
    row = table[len(context) + i - 1]
    total += row[token]
    greedy &= int(row.argmax()) == token
  return total, greedy


def test_likelihoods(case):
  harness, model, theirs = case
  prefix = theirs.bos_token_id
  prefix = theirs.eos_token_id if prefix is None else prefix
  found = harness.loglikelihood(harness_cases.PAIRS)
  assert harness.prefix == prefix
  for (context, continuation), (value, greedy) in zip(
      harness_cases.PAIRS, found, strict=True):
    if context.strip():
      whole = theirs.encode(context + continuation)
      before = theirs.encode(context.rstrip())
    else:
      before = [prefix]
      whole = before + theirs.encode(
          context + continuation, add_special_tokens=False)
    said = whole[len(before):]
    room = harness.max_length + 1 - len(said)  # what is too long is cut
    expected = reference(model, before[-room:], said)
    np.testing.assert_allclose(value, expected[0], **PARITY)
    assert greedy == expected[1]


def test_what_is_likeliest_is_told(case):
  harness, model, theirs = case
  ids = theirs.encode("The answer")
  best = int(logp(model, ids)[-1].argmax())
  (_, greedy), (_, other) = harness._scores(
      [(ids, [best]), (ids, [(best + 1) % len(theirs)])])
  assert greedy and not other


def test_long_texts_go_by_windows(case):
  harness, model, theirs = case
  value, = harness.rolling([harness_cases.LONG])
  ids, length = theirs.encode(harness_cases.LONG), harness.max_length
  assert len(ids) > 2 * length
  total = 0.0
  for start in range(0, len(ids), length):
    said = ids[start:start + length]
    before = [harness.prefix, *ids[:start]][-(length + 1 - len(said)):]
    total += reference(model, before, said)[0]
  np.testing.assert_allclose(value, total, rtol=1e-5)
  short, both = "A word.", harness.rolling(["A word.", harness_cases.LONG])
  np.testing.assert_allclose(both[1], value, rtol=1e-6)
  np.testing.assert_allclose(both[0], reference(
      model, [harness.prefix], theirs.encode(short))[0], **PARITY)


def test_windows_say_every_id_once():
  ids = list(range(10))
  windows = list(harness_lib._windows(99, ids, 4))
  assert windows == [([99], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]),
                     ([5, 6, 7], [8, 9])]


def test_generations(case):
  harness, model, theirs = case
  prompts = ["What is 3 + 4?", "Answer:", "one two", "x"]
  found = harness.generate([
      (text, {"until": [], "max_gen_toks": 6, "do_sample": False})
      for text in prompts])
  for text, got in zip(prompts, found, strict=True):
    ids = theirs.encode(text)
    new = []
    while len(new) < 6:
      new.append(int(logp(model, ids + new)[-1].argmax()))
      if new[-1] in harness.tokenizer.eos_ids:
        break
    assert got == theirs.decode(new, skip_special_tokens=True)
  whole = max(found, key=len)
  text = prompts[found.index(whole)]
  stop = whole[len(whole) // 2:]
  cut, = harness.generate([(text, {"until": stop, "max_gen_toks": 6})])
  assert cut == whole[:whole.index(stop)]


def test_samples_differ_and_come_again(case):
  harness, *_ = case
  request = ("one two", {"do_sample": True, "temperature": 1.0,
                         "max_gen_toks": 8})
  first = harness.generate([request] * 4)
  assert len(set(first)) > 1
  again = Harness(harness._policy, harness.tokenizer, SMALL)
  assert again.generate([request] * 4) == first
  with pytest.raises(ValueError, match="num_beams"):
    harness.generate([("x", {"num_beams": 4})])
  with pytest.raises(ValueError, match="max_gen_toks=256 leaves no room"):
    harness.generate([("x", {})])


def test_chats(case):
  harness, _, theirs = case
  messages = [{"role": "user", "content": "What is 3 + 4?"}]
  assert harness.chat(messages) == theirs.apply_chat_template(
      messages, tokenize=False, add_generation_prompt=True)
  messages.append({"role": "assistant", "content": "It is"})
  begun = harness.chat(messages, add_generation_prompt=False)
  assert begun.endswith("It is") and "3 + 4" in begun
