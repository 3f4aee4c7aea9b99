import dataclasses

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import record

PROMPT = Prompt(
    id=7, domain="logic", source="mine",
    messages=({"role": "system", "content": "Be brief."},
              {"role": "user", "content": "谁是骑士?"}),
    reference={"answer": ["a", 1, 1.5, None, True]}, verifier="mine",
    language="zh", metadata={"level": 3, "odd": {"x": []}})


def test_round_trips():
  assert record.decode(record.encode(PROMPT)) == PROMPT
  assert record.from_json(record.to_json(PROMPT), 0) == PROMPT
  stored = {key: value.encode() if isinstance(value, str) else value
            for key, value in record.encode(PROMPT).items()}
  assert record.decode(stored) == PROMPT


@pytest.mark.parametrize("change, reason", [
    ({"id": 2**31}, "an id must be in 0..2147483647"),
    ({"id": -1}, "an id must be in"),
    ({"domain": "maths"}, "domain='maths' is not one of math, code"),
    ({"reference": (1, 2)}, "reference is not JSON-ready: JSON would"),
    ({"reference": float("nan")}, "reference is not JSON-ready"),
    ({"metadata": {1: "x"}}, "metadata is not JSON-ready: JSON would"),
    ({"metadata": {"x": {2}}}, "metadata is not JSON-ready: Object of type"),
])
def test_what_would_not_come_back_is_refused(change, reason):
  with pytest.raises(ValueError, match=reason):
    record.encode(dataclasses.replace(PROMPT, **change))


SHORT = {"domain": "math", "source": "mine", "question": "1+1?",
         "reference": "2", "verifier": "math"}


def test_short_form():
  assert record.from_json(SHORT, 5) == Prompt(
      id=5, domain="math", source="mine", messages=ask("1+1?"), reference="2",
      verifier="math")
  judged = {**SHORT, "verifier": "", "reference": None}
  assert record.from_json(judged, 5).reference is None


@pytest.mark.parametrize("change, reason", [
    ({"answer": "2"}, "field 'answer' is unknown"),
    ({"id": "5"}, "id='5' is not a whole number"),
    ({"id": True}, "id=True is not a whole number"),
    ({"id": 2**31}, "id=2147483648 is not a whole number in 0..2147483647"),
    ({"domain": "maths"}, "domain='maths' is not one of"),
    ({"source": None}, "no text under 'source'"),
    ({"verifier": 1}, "no text under 'verifier'"),
    ({"language": 1}, "no text under 'language'"),
    ({"reference": None}, "verifier 'math' needs a 'reference'"),
    ({"metadata": []}, "'metadata' is not an object"),
    ({"question": " "}, "no text under 'question'"),
    ({"messages": []}, "either 'question' or 'messages'"),
])
def test_bad_json(change, reason):
  with pytest.raises(ValueError, match=reason):
    record.from_json({**SHORT, **change}, 0)


@pytest.mark.parametrize("verifier, reference, read", [
    ("math", 42, "42"), ("math", 0.5, "0.5"), ("math", "\\boxed{5}", "5"),
    ("math", "$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"), ("exact", 7, "7"),
    ("choice", "b", {"answer": "B", "options": {}}),
    ("choice", {"answer": "(b)", "options": {"a": "x", "b": "y"}},
     {"answer": "B", "options": {"A": "x", "B": "y"}}),
    ("choice", {"answer": "B"}, {"answer": "B", "options": {}}),
    ("set", ["a", 1], ["a", "1"]), ("own_rule", {"x": 1}, {"x": 1}),
])
def test_references_are_read_as_they_are_meant(verifier, reference, read):
  fields = {**SHORT, "verifier": verifier, "reference": reference}
  assert record.from_json(fields, 0).reference == read


@pytest.mark.parametrize("verifier, reference, reason", [
    ("mth", "2", "is 'math' meant"), ("choise", "B", "is 'choice' meant"),
    ("math", "", "cannot judge by the reference"),
    ("math", True, "cannot judge"), ("math", ["1"], "cannot judge"),
    ("math", "\\boxed{}", "something in its box"),
    ("choice", {"answer": "E", "options": {"A": "x"}}, "not among"),
    ("choice", "nucleus", "no letter"), ("choice", 3, "cannot judge"),
    ("set", "a, b", "a list of texts"), ("grid", {"a": 1}, "row"),
    ("code", "print(1)", "'kind'"), ("code", {"kind": "x"}, "not one of"),
    ("code", {"kind": "stdin", "inputs": ["1"]}, "'outputs'"),
    ("game24", {"numbers": [1]}, "'target'"),
])
def test_references_that_cannot_be_judged_by(verifier, reference, reason):
  fields = {**SHORT, "verifier": verifier, "reference": reference}
  with pytest.raises(ValueError, match=reason):
    record.from_json(fields, 0)


@pytest.mark.parametrize("messages, reason", [
    ([], "not a list of messages"), ("hello", "not a list of messages"),
    (["hello"], "a message is .'role'"),
    ([{"role": "user"}], "a message is"),
    ([{"role": "robot", "content": "x"}], "a message is"),
    ([{"role": "user", "content": 3}], "a message is"),
    ([{"role": "assistant", "content": "x"}], "not a user's question"),
    ([{"role": "user", "content": " "}], "not a user's question"),
])
def test_bad_messages(messages, reason):
  fields = {key: value for key, value in SHORT.items() if key != "question"}
  with pytest.raises(ValueError, match=reason):
    record.from_json({**fields, "messages": messages}, 0)
