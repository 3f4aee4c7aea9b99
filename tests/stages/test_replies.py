"""Models that answer conversations, as policies, judges and rewriters."""

import collections
import dataclasses
import json
import types

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.text import hf_tokenizer
from r1jax.rewards import judge
from r1jax.rewards.judge import Pair
from r1jax.stages import labelling, programs, replies, rewriting
from r1jax.stages.programs import Means
from r1jax.stages.replies import Replier, ReplyConfig
from r1jax.stages.rewriting import Draft, Rewrite
from tests import chat_server
from tests.data.text import hf_cases
from tests.stages import cases


@pytest.fixture(scope="module")
def writer():
  """Its parameters are loaded once, when they are needed."""
  loads = []

  def policy():
    loads.append(1)
    return cases.policy(cases.DENSE)

  cfg = ReplyConfig(template="plain", batch=4, temperature=1.0, top_p=1.0,
                    max_new_tokens=6)
  made = Replier(policy, cases.DENSE.max_position, cases.tokenizer(), cfg)
  assert made([]) == [] and not loads
  yield made
  assert len(loads) == 1


def test_a_model_answers_whatever_it_is_asked_with(writer):
  questions = [ask(f"What is {i}?") for i in range(6)]
  got = writer.samples(questions, range(6), 2)
  assert all(len(texts) == 2 for texts in got)
  assert any(a != b for a, b in got)
  # In other batches the same question has the same answers.
  again = writer.samples(questions[4:], [4, 5], 2)
  assert again == got[4:]
  engine = writer._ready[0](2)
  programs = engine.compilations()
  writer.samples(questions[:3], range(3), 2)
  assert engine.compilations() == programs  # one shape
  got = writer.samples([ask("word " * 400), questions[0]], [9, 0], 2)
  assert got[0] is None and len(got[1]) == 2  # too long is no answer
  assert engine.compilations() == programs


def test_processes_sample_as_often_as_each_other(writer, monkeypatch):
  """Another process has more to ask: this one asks along."""
  engine = writer._ready[0](2)
  wanted, sizes, generate = writer.samples([ask("q")], [3], 2), [], (
      engine.generate)
  monkeypatch.setattr(engine, "generate", lambda *args, **more: (
      sizes.append(len(args[2])), generate(*args, **more))[1])
  monkeypatch.setattr(replies, "processes", types.SimpleNamespace(
      largest=lambda own: (3,) if own == 1 else (2,)))
  assert writer.samples([ask("q")], [3], 2) == wanted and sizes == [12]
  assert writer.samples([], [], 2) == [] and sizes == [12, 8]


def test_a_judge_whose_context_is_too_short_decides_nothing(writer):
  writer.failures = collections.Counter()
  pairs = [Pair(id=0, messages=ask("q"), first="a", second="b")]
  found, = judge.compare(writer, pairs, seed=0, queries=2)
  assert found.chosen is None and found.unparsed == 2
  assert labelling.report([found], [], [])["no_verdict"] == 1
  assert writer.failures == {"it has more than 250 tokens, the context"
                             " less max_new_tokens=6": 2}


def test_a_reply_does_not_depend_on_its_batch():
  """The shipped base: its thoughts are not in a reply."""
  cfg = ReplyConfig(template="r1-zero", batch=2, max_new_tokens=32,
                    temperature=1.0)
  asked = [ask(f"Ana has {i} pears. She buys 5 more. How many pears does Ana"
               " have?") for i in range(5)]
  generate = replies.load("base", cfg)
  found = [text for text in generate(asked)]
  assert sum(map(bool, found)) > 2 and len(set(found)) > 2
  assert not any("</think>" in text for text in found if text)
  lost = sum(generate.failures.values())
  assert lost == found.count(None)
  again = generate([asked[3], ask("Why? " * 200), asked[1]])
  assert again == [found[3], None, found[1]]
  assert generate.failures[
      "it has more than 224 tokens, the context less max_new_tokens=32"
      ] == 1


def test_a_reply_that_is_cut_short_or_only_a_thought_is_none(writer):
  """What a judge had meant to say cannot be known."""
  said = {"<think>[[A>>B]]": None, "<think>no</think> ": None,
          "<think>no</think>\n[[A>B]]": "[[A>B]]",
          "<think> x </think> <answer> [[A=B]] </answer>": "[[A=B]]"}
  for text, want in said.items():
    assert writer._reply(replies._Answer(text, True)) == want
    assert writer._reply(replies._Answer(text, False)) is None


def test_a_conversation_that_its_template_refuses_ends_nothing(tmp_path):
  """Control tokens in it are no reason: they are text."""
  tokenizer = hf_tokenizer.load(hf_cases.qwen(tmp_path))
  made = Replier(lambda: cases.policy(cases.DENSE), cases.DENSE.max_position,
                 tokenizer, ReplyConfig(batch=1, max_new_tokens=6))
  strange = [{"role": "user"}]
  assert made._rendered(strange) is None
  reason, = made.failures
  assert "give role and content" in reason
  said = made._rendered(ask("Is <|im_end|> right?"))
  (end,) = tokenizer.encode_chat("<|im_end|>")
  assert said.ids.count(end) == 2  # of the system's turn and the user's


@pytest.mark.parametrize("changes,message", [
    (dict(max_new_tokens=256), "leaves no room in base's context of 256"),
    (dict(template="chat", max_new_tokens=8), "has no chat template")])
def test_a_model_that_cannot_reply_is_seen_before_the_work(changes, message):
  with pytest.raises(ValueError, match=message):
    replies.load("base", ReplyConfig(**changes))


def test_what_replies_depend_on(tmp_path):
  means = Means(reply=ReplyConfig(batch=3), key="secret")
  assert "secret" not in repr(means)
  assert means.settings("module:judge") == {"name": "module:judge"}
  program, model = tmp_path / "f.py", tmp_path / "model"
  model.mkdir()
  for name, path in ((f"{program}:judge", program),
                     (f"hf:{model}", model / "config.json")):
    path.write_text("1")
    before = means.settings(name)
    assert means.settings(name) == before
    path.write_text("2")
    assert means.settings(name) != before
  model = means.settings("hf:DIR")
  assert model["max_new_tokens"] == 1024 and "batch" not in model
  assert means.settings("http://host/v1") == {
      "name": "http://host/v1", "model": "", "temperature": 0.6,
      "max_tokens": 2048}
  with pytest.raises(ValueError, match="its model's name"):
    programs.replier("http://host/v1", means)
  assert programs.replier("f.py:judge", means) is None
  assert rewriting.parsed(None) is None


def test_an_endpoint_judges_and_rewrites(tmp_path):
  """What it fails to answer is invalid, never wrong; nothing is asked twice."""
  def say(number, body):
    text = chat_server.question(body)
    if "What is 2 + 2?" in text:
      return 400
    if "<rough thoughts" in text:
      return "<thought>I add.</thought><summary>So.</summary>"
    right = "\n4\n" in text.partition("<answer")[2]
    return json.dumps({"analysis": "", "correctness": (
        "correct" if right else "incorrect")})

  prompts = [Prompt(id=i, domain="general", source="t", reference="4",
                    messages=ask(f"What is {i} + 2?"), verifier="")
             for i in range(4)]
  drafts = [Draft(prompt, "we add", "4") for prompt in prompts]
  with chat_server.serving() as start:
    server = start(say)
    means = Means(endpoint=dataclasses.replace(server.config(), url=""),
                  key="secret", cache=tmp_path)
    for asked in (8, 1 + 1):  # the second time what failed alone
      server.seen.clear()
      generate = programs.replier(server.url, means)
      judged = programs.judge(server.url, generate, seed=3)
      said = judged(prompts, ["4", "5", "4", "4"])
      assert [score.valid for score in said] == [True, True, False, True]
      assert [score.value for score in said] == [1, 0, 0, 1]
      rewrite = rewriting.rewriter(server.url, generate, seed=3)
      good = Rewrite("I add.", "So.")
      assert rewrite(drafts) == [good, good, None, good]
      assert generate.failures == {"HTTP status 400": 2}
      assert len(server.seen) == asked
    assert server.keys == {"Bearer secret"}
