import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.text import templates
from r1jax.rewards import asked, rules
from r1jax.stages import judging


def prompt(verifier, question="How many?", language="en", before=()):
  return Prompt(id=1, domain="math", source="x", reference="4",
                messages=(*before, *ask(question)), verifier=verifier,
                language=language)


@pytest.mark.parametrize("verifier,language,words", [
    ("math", "en", "final answer in \\boxed{}"), ("math", "zh", "最终答案"),
    ("math", "de", "final answer in \\boxed{}"),
    ("choice", "en", "letter of the right option"),
    ("code", "en", "```python"), ("exact", "zh", "\\boxed{}")])
def test_a_question_is_followed_by_the_form_that_is_read(
    verifier, language, words):
  before = {"role": "user", "content": "Hi"}, {
      "role": "assistant", "content": "```x```"}
  *first, last = asked.instructed(prompt(verifier, "Q? ", language, before))
  assert tuple(first) == before and last["role"] == "user"
  assert last["content"].startswith("Q?\n\n") and words in last["content"]


@pytest.mark.parametrize("given", [
    prompt("instructions"), prompt(""), prompt("my_own"),
    prompt("math", "Put it into \\boxed{}."), prompt("code", "In ``` please"),
    prompt("math", before=({"role": "system", "content": "use <answer>"},))])
def test_what_needs_none_or_has_one_stays(given):
  assert asked.instructed(given) == given.messages


def test_verifiers_are_those_that_there_are():
  assert set(asked._BY_VERIFIER) <= set(rules.VERIFIERS)


@pytest.mark.parametrize("template,there", [
    ("chat", True), ("chat:instruct=False", False), ("plain", False),
    ("r1-zero", False), ("Q {question} A", False)])
def test_only_chats_are_told(monkeypatch, template, there):
  seen = []
  monkeypatch.setattr(templates, "prompt", lambda messages, *_: (
      seen.append(messages[-1]["content"]) or templates.Rendered([1], "")))
  judging.Judge(None, template, None, None).tokens(prompt("math"))
  assert ("boxed" in seen[0]) == there
