"""From questions to ids and from ids to verdicts; ids are never made twice."""

import dataclasses
import types

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.core.types import Rollout
from r1jax.data.streams import minibatches
from r1jax.data.text import hf_tokenizer
from r1jax.rewards import format, response
from r1jax.rewards.combine import Combine, RewardConfig
from r1jax.rewards.score import Score
from r1jax.stages import judging, tasks
from r1jax.stages.judging import Judge
from tests.data.text import hf_cases
from tests.stages import cases

PROMPTS = [Prompt(
    id=i, domain="math", source="t", messages=ask(f"What is {i}?"),
    reference=str(i), verifier="math") for i in range(3)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
  top = tmp_path_factory.mktemp("judging")
  return {name: hf_tokenizer.load(make(top / name))
          for name, make in hf_cases.FAMILIES.items()}


class FormatPool:
  """The real format rule, without child processes."""

  def submit(self, items):
    found = [{"format": format.think_answer(p, response.split(tail, text)),
              "accuracy": Score(0.0, True, "")} for p, tail, text in items]
    return types.SimpleNamespace(result=lambda: found)


def _rollout(prompts, rows, samples=1):
  """`samples` of each prompt: `rows` of ids, those of a prompt together."""
  shape = len(prompts), samples
  tokens = np.zeros((*shape, max(map(len, rows))), np.int32)
  for row, ids in zip(tokens.reshape(-1, tokens.shape[2]), rows, strict=True):
    row[:len(ids)] = ids
  return Rollout(
      prompt_tokens=tuple(prompts), prompt_ids_Q=np.arange(len(prompts)),
      tokens_QGT=tokens,
      lengths_QG=np.array([len(r) for r in rows]).reshape(shape),
      truncated_QG=np.zeros(shape, bool),
      logprobs_QGT=np.full(tokens.shape, -1, np.float32))


@pytest.mark.parametrize("family,template,tail", [
    ("qwen", "chat", ""), ("qwen", "chat-think", "<think>\n"),
    ("llama", "chat-think", "<think>\n"), ("deepseek", "chat", "<think>\n"),
    ("deepseek", "r1", "<think>\n"), ("qwen", "r1-zero", "")])
def test_the_format_reward_reads_what_the_template_opened(
    tokenizers, family, template, tail):
  x = tokenizers[family]
  judge = Judge(x, template, FormatPool(), Combine())
  assert [judge.tail(p) for p in PROMPTS] == [tail] * 3
  said = "1 is 1 </think> <answer> 1 </answer>"
  rows = [[*x.encode(text), min(x.eos_ids)]
          for text in (said, f"<think> {said}", "<answer> 1 </answer>")]
  rollout = _rollout([judge.tokens(p) for p in PROMPTS], rows)
  scored = judge.submit(rollout, PROMPTS)()
  want = [[1.0], [0.0], [0.0]] if tail else [[0.0], [1.0], [0.0]]
  np.testing.assert_array_equal(scored.parts["format"], want)
  assert scored.texts[0] == (said,)


def test_samples_that_end_early_are_judged_early():
  """In any order, to the same judgement."""
  judge, prompts = cases.judge(), cases.prompts()[:3]
  rows = [[5 + row, 9, min(judge.tokenizer.eos_ids)] for row in range(6)]
  rollout = _rollout([judge.tokens(p) for p in prompts], rows, samples=2)
  want = judge.submit(rollout, prompts)()
  seen, pool = [], judge.pool

  class Watched:
    def submit(self, items):
      seen.append([prompt.id for prompt, *_ in items])
      return pool.submit(items)

  judge = judge._replace(pool=Watched())
  begun = judge.begin(prompts)
  order = [(2, 1), (0, 0), (1, 1), (2, 0), (1, 0), (0, 1)]
  for q, g in order:
    begun.ended(q, g, rollout.completion(q, g))
  assert seen == [[prompts[q].id] for q, _ in order]
  got = begun.submit(rollout)()
  assert len(seen) == 6  # nothing is judged again
  assert (got.prompts, got.texts, got.reasons) == (
      tuple(want.prompts), want.texts, want.reasons)
  np.testing.assert_array_equal(got.rewards_QG, want.rewards_QG)
  # A rollout from before an interruption is judged as a whole.
  whole = judge.begin(prompts).submit(rollout)()
  assert len(seen) == 7 and len(seen[6]) == 6
  np.testing.assert_array_equal(whole.rewards_QG, want.rewards_QG)


def test_missing_verdicts_are_told_with_their_commonest_reason(monkeypatch):
  said = []
  monkeypatch.setattr(judging.logging, "log_first_n",
                      lambda _, text, n, *args: said.append(text % args))
  bad = {"accuracy": Score(0.0, False, "TypeError: x (the rule a.b)")}
  good = {"accuracy": Score(0.0, True, "wrong")}
  judging._report([good, good])
  assert not said
  judging._report([good, bad, bad])
  assert len(said) == 1 and said[0].startswith("2 of 3 samples have no verdict")
  assert said[0].endswith("2 times: TypeError: x (the rule a.b)")


def test_prompts_begin_once(tokenizers):
  for family, template in (("llama", "chat"), ("llama", "plain"),
                           ("deepseek", "r1"), ("deepseek", "r1-zero")):
    x = tokenizers[family]
    ids = Judge(x, template, None, Combine()).tokens(PROMPTS[0])
    assert ids.dtype == np.int32 and ids[0] == x.bos_id
    assert np.count_nonzero(ids == x.bos_id) == 1
  ids = Judge(tokenizers["qwen"], "plain", None, Combine()).tokens(PROMPTS[0])
  assert ids.tolist() == tokenizers["qwen"].encode(
      "Question: What is 0? Answer:")


def test_the_ids_that_were_sampled_are_those_that_are_trained():
  """Text is for rewards alone: here it does not lead back to the ids."""
  judge = cases.judge()
  x, rng = judge.tokenizer, np.random.default_rng(0)
  plain = np.setdiff1d(np.arange(4, x.vocab_size), sorted(x.eos_ids))
  rows = [[*rng.choice(plain, 9).tolist(), min(x.eos_ids)] for _ in range(8)]
  prompts = [judge.tokens(p) for p in cases.prompts()[:8]]
  rollout = _rollout(prompts, rows)
  scored = judge.submit(rollout, cases.prompts()[:8])()
  texts = [text for (text,) in scored.texts]
  changed = [x.encode(text) != row[:-1] for text, row in zip(texts, rows)]
  assert all(changed)  # encoding the text again would train on other ids
  batch = minibatches.pack(
      scored.rollout, [np.arange(8)], 64, 16)[0].batch
  for prompt, row in zip(prompts, rows, strict=True):
    assert any(_segment(batch, b, s) == [*prompt, *row]
               for b in range(len(batch.tokens_BT))
               for s in range(1, batch.segments_BT[b].max() + 1))
  trained = sorted(batch.targets_BT[batch.mask_BT > 0].tolist())
  assert trained == sorted(i for row in rows for i in row)


def _segment(batch, row, segment):
  """The ids of a packed sequence."""
  at = batch.segments_BT[row] == segment
  return [*batch.tokens_BT[row][at], batch.targets_BT[row][at][-1]]


TASK = """
from r1jax.rewards.score import Score


def prompts(split):
  return []


def verify(prompt, response):
  return Score({value}, True, "mine")


VERIFIERS = {{"mine": verify}}
"""


def test_a_rule_of_ones_own_is_imported_as_it_is_now(tokenizers, tmp_path):
  """A notebook writes the file, runs it, and writes it anew."""
  path = tmp_path / "own_rule_in_a_notebook.py"
  prompt = dataclasses.replace(PROMPTS[0], verifier="mine")
  ids = tokenizers["qwen"].encode("An answer")
  for value in (0.25, 0.125):
    path.write_text(TASK.format(value=value))
    with judging.judge(tokenizers["qwen"], "plain", RewardConfig(workers=1),
                       tasks.verifiers(str(path))) as judge:
      scored = judge.submit(
          _rollout([judge.tokens(prompt)], [ids]), [prompt])()
    assert scored.parts["accuracy"].tolist() == [[value]]


def test_rewards_that_no_rule_gives_are_refused(tokenizers):
  with pytest.raises(ValueError, match="no rule gives the reward charm"):
    with judging.judge(tokenizers["qwen"], "plain",
                       RewardConfig(weights="charm:1")):
      pass
