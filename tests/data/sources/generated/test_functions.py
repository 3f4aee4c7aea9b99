import contextlib
import importlib.util
import io
import runpy
import sys
from collections import Counter

import pytest

from r1jax.data.sources.generated import draws, functions
from tests.data.sources.generated import cases


def _load(path, source):
  """The function f of a source."""
  path.write_text(source)
  spec = importlib.util.spec_from_file_location("candidate", path)
  candidate = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(candidate)
  return candidate.f


def _passes(path, source, reference):
  if reference["kind"] == "stdin":
    return all(
        _printed(path, source, given) == want
        for given, want in zip(reference["inputs"], reference["outputs"],
                               strict=True))
  f = _load(path, source)
  for arguments, want in reference["cases"]:
    try:
      got = f(*arguments)
    except Exception:  # what a buggy program raises fails it
      return False
    if got != want or type(got) is not type(want):
      return False
  return True


def _printed(path, source, given):
  path.write_text(source)
  out = io.StringIO()
  with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
    patch.setattr(sys, "stdin", io.StringIO(given))
    runpy.run_path(str(path))
  return out.getvalue()


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch):
  # A source rewritten within a second would be read from its old bytecode.
  monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.parametrize("split,count", [
    ("train", 300), ("validation", 128), ("test", 128), ("hard", 128),
    pytest.param("train", 2000, marks=pytest.mark.slow)])
def test_solutions_pass_and_buggy_ones_do_not(tmp_path, split, count):
  path = tmp_path / "candidate.py"
  for p in cases.rows("functions", split)[:count]:
    assert _passes(path, p.metadata["solution"], p.reference), p.question
    if p.verifier == "bugfix":
      assert p.metadata["buggy"].strip() in p.question
      assert not _passes(path, p.metadata["buggy"], p.reference), p.question


def test_fixed_answers_do_not_pass():
  for split in functions.SPLITS:
    for p in cases.rows("functions", split):
      if p.reference["kind"] == "stdin":
        values = p.reference["outputs"]
      else:
        values = [want for _, want in p.reference["cases"]]
      assert len(values) == functions.CASES
      boolean = isinstance(values[0], bool)
      assert len(set(map(repr, values))) >= (2 if boolean else 4)


def test_a_bug_that_no_test_sees_is_no_repair_task():
  dice = draws.Dice("bug")
  task = functions._affine(dice)
  unseen = task._replace(wrong=task.compute)
  assert functions._function(dice, unseen, repair=True) is None
  assert functions._function(dice, unseen, repair=False) is not None
  assert functions._function(dice, task, repair=True) is not None


def test_kinds_and_lengths():
  kinds, families = Counter(), set()
  for p in cases.rows("functions", "train"):
    kinds[p.metadata["kind"]] += 1
    families.add(p.metadata["family"])
    assert p.verifier == (
        "bugfix" if p.metadata["kind"] == "bugfix" else "code")
  assert kinds == {"function": 1000, "stdin": 500, "bugfix": 500}
  assert len(families) == 23
  for split in functions.SPLITS:
    assert max(len(p.question) for p in cases.rows("functions", split)) <= 150
  assert {p.metadata["family"] for p in cases.rows("functions", "hard")} == {
      "pipeline"}


def test_splits_share_no_solution():
  # Also none that is asked for in one split and repaired in another.
  seen = {}
  for split in functions.SPLITS:
    for p in cases.rows("functions", split):
      assert seen.setdefault(p.metadata["solution"], split) == split


def test_verifier():
  from r1jax.rewards.programs import solutions

  rows = cases.rows("functions", "test")[:16]
  for p in rows:
    right = f"```python\n{p.metadata['solution']}```"
    assert solutions.all_passed(p, cases.respond(right)).value == 1, p.question
    if p.verifier == "bugfix":
      wrong = p.metadata["buggy"]
    else:  # another row's solution of the same kind
      wrong = next(q.metadata["solution"] for q in rows
                   if q.metadata["kind"] == p.metadata["kind"]
                   and q.metadata["solution"] != p.metadata["solution"])
    answer = cases.respond(f"```python\n{wrong}```")
    assert solutions.all_passed(p, answer).value == 0, p.question
