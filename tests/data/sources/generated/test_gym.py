import datetime
import random
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from r1jax.data.sources.generated import draws, gym
from tests.data.sources.generated import cases

pytest.importorskip("reasoning_gym")


def test_tasks_are_ones_that_the_verifier_judges():
  from r1jax.rewards.logic import puzzles

  ours = [task for tasks in gym.TASKS.values() for task in tasks]
  assert len(ours) == len(set(ours)) >= 40
  assert set(ours) <= puzzles.TASKS


class LaterDate(datetime.date):
  @classmethod
  def today(cls):
    return datetime.date(2031, 3, 1)


class LaterTime(datetime.datetime):
  @classmethod
  def now(cls, tz=None):
    return datetime.datetime(2031, 3, 1, 4, 5, tzinfo=tz)


def entries(task, seed):
  random.seed(seed)
  np.random.seed(seed)
  # A task that draws from the process draws there in some entries only.
  slow = task in ("zebra_puzzles", "puzzle24", "countdown")
  dice = draws.Dice("entries", task)
  return [gym._entry(task, dice.below(2**31)) for _ in range(2 if slow else 9)]


def test_entries_depend_on_neither_the_process_nor_the_day(monkeypatch):
  tasks = [task for tasks in gym.TASKS.values() for task in tasks]
  first = {task: entries(task, 0) for task in [*tasks, "list_functions"]}
  for name, module in list(sys.modules.items()):
    if name.startswith("reasoning_gym"):
      for key, value in list(vars(module).items()):
        if value is datetime.date:
          monkeypatch.setattr(module, key, LaterDate)
        elif value is datetime.datetime:
          monkeypatch.setattr(module, key, LaterTime)
  changed = {task for task in first if entries(task, 1) != first[task]}
  assert changed == {"list_functions"}  # which is not among ours


def test_rows_take_the_tasks_in_turn():
  rows = cases.rows("gym", "test")
  counts = Counter(p.metadata["task"] for p in rows)
  assert set(counts.values()) == {3}
  assert len({p.metadata["task"] for p in rows[:len(counts)]}) == len(counts)
  for p in rows:
    task, category = p.metadata["task"], p.metadata["category"]
    assert task in gym.TASKS[category]
    assert p.reference["task"] == task and p.source == f"gym/{task}"
    assert p.reference["entry"]["question"] == p.question
    assert p.domain == (
        "math" if category in ("algebra", "arithmetic", "geometry")
        else "logic")


def test_categories_are_the_librarys():
  from reasoning_gym.factory import DATASETS

  for category, tasks in gym.TASKS.items():
    for task in tasks:
      assert DATASETS[task][0].__module__.split(".")[1] == category


def test_own_answers_win_and_others_do_not():
  from r1jax.rewards.logic import puzzles

  for p in cases.rows("gym", "test"):
    gold = p.reference["entry"]["answer"]
    assert puzzles.verify(p, cases.respond(gold)).value == 1, p.source
    for wrong in ("", "I do not know", "banana", f"{gold} {gold}1"):
      assert puzzles.verify(p, cases.respond(wrong)).value < 0.5, p.source


@pytest.mark.slow
def test_no_answer_is_right_more_often_than_not():
  answers = defaultdict(Counter)
  for p in cases.rows("gym", "train"):
    answers[p.source][str(p.reference["entry"]["answer"])] += 1
  for source, counts in answers.items():
    assert counts.most_common(1)[0][1] <= 0.5 * counts.total(), source


def test_another_version_is_refused(monkeypatch):
  import importlib.metadata

  monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.0")
  gym._create.cache_clear()
  with pytest.raises(ValueError, match="install reasoning-gym==0.1.25"):
    next(gym.prompts("test"))
