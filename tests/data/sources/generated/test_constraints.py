import json
from collections import Counter

import pytest

from r1jax.data.sources.generated import constraints
from tests.data.sources.generated import cases
from tests.shared import folder


def _comply(prompt):
  """An answer that follows every instruction, put together by rule."""
  told = dict(zip(prompt.reference["ids"], prompt.reference["kwargs"]))
  words = """it was day as any other here and then some more of them came with
      us to the place where we had been all those""".split()
  if k := told.get("keywords:existence"):
    words += k["keywords"]
  if k := told.get("keywords:frequency"):
    words += [k["keyword"]] * (k["frequency"] * (k["relation"] == "at least"))
  if k := told.get("keywords:letter_frequency"):
    words += [k["letter"] * k["let_frequency"]] * (
        k["let_relation"] == "at least")
  if k := told.get("change_case:capital_word_frequency"):
    words += ["VERY"] * (
        k["capital_frequency"] * (k["capital_relation"] == "at least"))
  if k := told.get("length_constraints:number_words"):
    words += ["and"] * (k["num_words"] * (k["relation"] == "at least"))
  if k := told.get("detectable_content:number_placeholders"):
    words += ["[name]"] * k["num_placeholders"]
  if k := told.get("detectable_format:number_highlighted_sections"):
    words += [f"*mark{i}*" for i in range(k["num_highlights"])]
  body = " ".join(words)
  if k := told.get("length_constraints:number_sentences"):
    if k["relation"] == "at least":
      body = ". ".join([body] + ["it was"] * k["num_sentences"])
  body += "."
  if k := told.get("length_constraints:number_paragraphs"):
    body = "\n***\n".join([body] * k["num_paragraphs"])
  if k := told.get("length_constraints:nth_paragraph_first_word"):
    parts = [body] * k["num_paragraphs"]
    parts[k["nth_paragraph"] - 1] = f"{k['first_word']} {body}"
    body = "\n\n".join(parts)
  if k := told.get("detectable_format:number_bullet_lists"):
    body = "\n".join([f"* {body}"] * k["num_bullets"])
  if k := told.get("detectable_format:multiple_sections"):
    body = "\n".join(f"{k['section_spliter']} {i + 1}\n{body}"
                     for i in range(k["num_sections"]))
  if "combination:two_responses" in told:
    body = f"{body}\n******\nin other words. {body}"
  if "detectable_format:title" in told:
    body = f"<<a day>>\n{body}"
  if k := told.get("combination:repeat_prompt"):
    body = f"{k['prompt_to_repeat']}\n{body}"
  if k := told.get("detectable_content:postscript"):
    body = f"{body}\n{k['postscript_marker']} that was it"
  if k := told.get("startend:end_checker"):
    body = f"{body} {k['end_phrase']}"
  if "startend:quotation" in told:
    body = f"\"{body}\""
  if "detectable_format:json_format" in told:
    body = json.dumps({"text": body})
  return body.upper() if "change_case:english_capital" in told else body


def _broken(kind, kwargs, good):
  """An answer that does not follow one instruction."""
  few = "it was a day."
  match kind.partition(":")[2], kwargs:
    case "no_comma", _:
      return good + ", yes"
    case "english_lowercase", _:
      return good.upper()
    case "english_capital", _:
      return good.lower()
    case "forbidden_words", {"forbidden_words": words}:
      return f"{good} {words[-1]}"
    case _, {"relation": "less than"} | {"let_relation": "less than"} | {
        "capital_relation": "less than"}:
      extra = kwargs.get("keyword") or kwargs.get("letter") or "MORE"
      return " ".join([good, *[f"{extra}."] * 100])
    case _:
      return few


def test_compliant_answers_win_and_broken_ones_do_not():
  from r1jax.rewards import instructions

  seen = Counter()
  for split in ("test", "validation", "hard"):
    for p in cases.rows("constraints", split):
      good = _comply(p)
      score = instructions.verify(p, cases.respond(good))
      assert score.value == 1, (p.question, good, score)
      for kind, kwargs in zip(p.reference["ids"], p.reference["kwargs"]):
        seen[kind] += 1
        bad = _broken(kind, kwargs, good)
        score = instructions.verify(p, cases.respond(bad))
        assert score.value == 0, (p.question, bad)
  assert len(seen) == 24 and min(seen.values()) >= 5


def test_ids_and_arguments_are_those_of_the_published_set():
  published = {}
  file = folder("ifeval") / "input_data.jsonl"
  for line in file.read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    for kind, kwargs in zip(row["instruction_id_list"], row["kwargs"]):
      schema = {key: type(value) for key, value in kwargs.items()}
      published.setdefault(kind, []).append(schema)
  ours = set()
  for split in constraints.SPLITS:
    for p in cases.rows("constraints", split):
      reference = p.reference
      for kind, kwargs in zip(reference["ids"], reference["kwargs"],
                              strict=True):
        ours.add(kind)
        schema = {key: type(value) for key, value in kwargs.items()}
        if kind != "length_constraints:distinct_words":  # our own
          assert schema in published[kind], kind
  assert set(published) - ours == {
      "language:response_language", "detectable_format:constrained_response"}


@pytest.mark.parametrize("split,levels", [
    ("train", {3, 4}), ("test", {3, 4}), ("hard", {5})])
def test_levels(split, levels):
  rows = cases.rows("constraints", split)
  # The topic's word may join the words that are asked for anyway.
  counts = [len(p.reference["ids"]) for p in rows]
  assert levels <= {*counts} <= levels | {min(levels) - 1}
  for p in rows:
    ids = p.reference["ids"]
    assert len(ids) == len({*ids})
    assert p.metadata["level"] + 1 <= len(ids) <= p.metadata["level"] + 2
    assert {"keywords:existence", "length_constraints:distinct_words"} <= {*ids}
  assert all(len(p.question) <= 330 for p in rows)


def test_no_fixed_text_is_paid():
  """One text for every topic, or hardly any text, follows no prompt."""
  from r1jax.rewards import instructions

  texts = ["THE CAT IS HERE", "x", "the cat is here", "\"x\"", "* a\n* b",
           "<<a>> [b] *c* ******\nP.S. d", "{}", "I hope this helps."]
  texts += [f"{text} " + " ".join(f"word{i}" for i in range(30))
            for text in texts]
  for p in (*cases.rows("constraints", "test"),
            *cases.rows("constraints", "validation")):
    for text in texts:
      assert instructions.verify(p, cases.respond(text)).value == 0, p.question


def test_arguments_are_told_in_the_question():
  for p in cases.rows("constraints", "train"):
    for kwargs in p.reference["kwargs"]:
      for value in kwargs.values():
        for part in value if isinstance(value, list) else [value]:
          assert str(part) in p.question


def test_splits_share_no_task_under_another_wording():
  seen = {}
  for split in constraints.SPLITS:
    for p in cases.rows("constraints", split):
      request, _, rest = p.question.partition(".")
      for opening in ("Write about", "Tell me about", "Write a note on",
                      "Describe", "Say something about"):
        request = request.removeprefix(opening)
      if "repeat" in rest:  # it holds the opening
        continue
      key = request, *sorted(map(json.dumps, p.reference["kwargs"])), *sorted(
          p.reference["ids"])
      assert seen.setdefault(key, split) == split
