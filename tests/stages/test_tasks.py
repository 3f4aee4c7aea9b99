"""Questions of one's own: what tells them apart, and which one is amiss."""

import dataclasses
import os
import subprocess
import sys

import pytest

from r1jax.core.config import DataError
from r1jax.core.prompt import Prompt, ask
from r1jax.stages import tasks
from tests.processes import ROOT
from tests.stages import cases

ONE = Prompt(id=3, domain="math", source="s", messages=ask("How many?"),
             reference={"answer": ["4", 4.0]}, verifier="math",
             metadata={"level": 2})
SET = dataclasses.replace(ONE, reference={"a", "b", "c", "d", "e"})
CHANGES = {
    "id": 4, "domain": "logic", "source": "t", "messages": ask("How much?"),
    "reference": {"answer": ["4", 5.0]}, "verifier": "exact", "language": "zh",
    "metadata": {"level": 3}}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Prompt)])
def test_every_field_of_a_question_counts(field):
  other = dataclasses.replace(ONE, **{field: CHANGES[field]})
  assert tasks.digest([ONE]) != tasks.digest([other])


def test_order_and_number_count():
  two = dataclasses.replace(ONE, id=4)
  found = {tasks.digest(some) for some in (
      [], [ONE], [ONE, ONE], [ONE, two], [two, ONE])}
  assert len(found) == 5


def test_other_processes_find_the_same():
  """Also of what is no JSON: a set's order is drawn in each process."""
  code = ("from tests.stages.test_tasks import ONE, SET, tasks\n"
          "print(tasks.digest([ONE, SET]))")
  found = subprocess.run(
      [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {"PYTHONHASHSEED": "1"})
  assert found.stdout.strip() == tasks.digest([ONE, SET]), found.stderr


def test_rules_count_by_their_file(tmp_path):
  path = tmp_path / "digest_task.py"
  text = "prompts = lambda split: []\n"
  path.write_text(text)
  assert tasks.rule_digests(f"gsm8k:2,{path}:1") == {}
  path.write_text(text + "VERIFIERS = {'x': abs}\n")
  imported = tasks.own(path)
  first = tasks.rule_digests(f"{path}")
  assert sys.modules["digest_task"] is imported
  assert list(first) == ["digest_task.py"]
  path.write_text(text + "VERIFIERS = {'x': len}\n")
  assert tasks.rule_digests(f"{path}") != first


def test_no_question_is_no_long_question():
  with pytest.raises(ValueError, match="there are no test.9:. prompts, the"):
    tasks.fitting([], None, 9, "test[9:]")


BROKEN = {
    "prompts = lambda split: None": r"prompts\('train'\) returns None, not a",
    "prompts = lambda split: [3]": "returns a list with 3, not of Prompts",
    "prompts = 3": r"prompts\('train'\) fails: TypeError \('int' object is not",
    "x = 1\ndef prompts(split)": r"imported: SyntaxError \(expected ':'\), line"
                                 r" 2 of .*broken_\d+.py$",
    "import no_such_thing": "ModuleNotFoundError .*, line 1 of .*broken",
    "import sys\nsys.exit(3)": "SystemExit .3., line 2 of .*broken",
    "def prompts(split):\n  raise OSError(f'no {split} yet')": r"broken_\d+.py:"
    r" prompts\('train'\) fails: OSError \(no train yet\), line 2 of .*broken",
    "from r1jax.data.sources import load\n"
    "prompts = lambda split: load.load('arith', None, 'exam')": "has no split"}


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_what_is_amiss_in_a_file_of_ones_own_is_said(tmp_path, number):
  """With the line, and as an error that is named by the flag of the file."""
  text, message = [*BROKEN.items()][number]
  path = tmp_path / f"broken_{number}.py"
  path.write_text(text + "\n")
  with pytest.raises(DataError, match=message):
    tasks.load(str(path), "train")


def test_a_question_that_cannot_be_asked_is_named():
  class Refusing:
    def tokens(self, prompt):
      if prompt.id == 7:
        raise ValueError("the chat template failed: no")
      return [1, 2]

    def check(self, prompts):
      pass

  prompts = [dataclasses.replace(p, id=i)
             for i, p in enumerate(cases.prompts()[:9])]
  head = " ".join(prompts[7].question.split())[:60]
  with pytest.raises(ValueError) as caught:
    tasks.fitting(prompts, Refusing(), 10, "training")
  assert str(caught.value) == (
      f"question 7 of 'arith' ({head!r}): the chat template failed: no")
