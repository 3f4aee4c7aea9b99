from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from r1jax.core.types import Prompt
from r1jax.rewards import rules, runner
from r1jax.rewards.score import Score
from tests.rewards import odd_rules

ROOT = pathlib.Path(__file__).parents[2]
ODD = {"odd": odd_rules.odd, "length": odd_rules.length}


def prompt(i, **metadata):
  return Prompt(id=i, domain="test", source="test", question="?",
                reference=str(i), metadata=metadata)


@pytest.fixture(scope="module")
def pool():
  with runner.Pool(ODD, deadline=0.5) as pool:
    yield pool


def judge(pool, *completions):
  items = [(prompt(i), "", c) for i, c in enumerate(completions)]
  return [s["odd"] for s in pool.submit(items).result(60)]


def alive(pid):
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
  except FileNotFoundError:
    return False


def until(condition, seconds=20):
  """Polls: another process acts in its own time."""
  end = time.monotonic() + seconds
  while not condition() and time.monotonic() < end:
    time.sleep(0.01)
  return condition()


def test_order_and_every_rule(pool):
  prompts = [prompt(i, level=np.int64(i % 7)) for i in range(40)]
  items = [(p, "T", f"{'ä' * g}\n{g}") for p in prompts for g in range(25)]
  for handle in [pool.submit(items), pool.submit(items)]:
    got = handle.result(60)
    assert got == [
        {"odd": Score(p.id, True, "T" + text),
         "length": Score(len(text), True, str(p.id % 7))}
        for p, _, text in items]
  assert pool.submit([]).result(0) == []


@pytest.mark.parametrize("completion,reason", [
    ("exit", "crash: exit 3"),
    ("segv", "crash: SIGSEGV"),
    ("sysexit", "SystemExit: 0"),
    ("raise", "KeyError: 'x'"),
    ("none", "the rule returned None"),
    ("nan", "the rule returned Score(value=nan"),
    ("hang", "deadline"),
    ("hang in C", "deadline"),
    ("memory", "MemoryError"),
])
def test_a_failure_costs_one_item(pool, completion, reason):
  texts = ["a"] * 5 + [completion] + ["b"] * 30
  scores = judge(pool, *texts)
  bad = scores.pop(5)
  assert (bad.value, bad.valid) == (0, False)
  assert bad.reason.startswith(reason)
  assert all(score.valid for score in scores)
  del texts[5]
  assert [s.reason for s in scores] == texts


def test_many_failures(pool):
  scores = judge(pool, *["exit", "a", "hang", "exit", "b"] * 2)
  assert [s.valid for s in scores] == [False, True, False, False, True] * 2


def test_prints_do_not_forge_verdicts(pool):
  assert [s.reason for s in judge(pool, "print", "a")] == ["print", "a"]


def test_stopped_clock_does_not_count(pool):
  assert judge(pool, "import")[0].valid


def test_parent_kills_what_no_alarm_can(monkeypatch):
  monkeypatch.setattr(runner, "GRACE", 1.5)
  with runner.Pool(ODD, deadline=0.2) as pool:
    assert [s.reason for s in judge(pool, "a", "deaf", "b")] == [
        "a", "deadline", "b"]


def test_children_import_no_jax(pool):
  modules = judge(pool, "modules")[0].reason.split()
  assert "r1jax.rewards.score" in modules
  assert not {"jax", "flax", "numpy", "sympy", "pytest"} & set(modules)


def test_math_in_children_with_a_deadline_shorter_than_the_import():
  answers = ["38", r"\sqrt{12}", "9^{9^{9}}", "(1, 2)"]
  golds = ["38", r"2\sqrt{3}", "x", "(1,2)"]
  items = [
      (Prompt(id=1, domain="math", source="", question="", reference=gold), "",
       f"<think> x </think> <answer> {answer} </answer>")
      for answer, gold in zip(answers, golds)]
  with runner.Pool(rules.RULES, workers=1, deadline=1.0) as pool:
    scores = pool.submit(items).result(60)
  assert [s["accuracy"].reason for s in scores] == [
      "correct", "correct", "too large", "correct"]
  assert all(s["format"].value == 1 for s in scores)


def test_first_result_soon_and_many_a_second():
  items = [(prompt(3), "", "<think> 1+2=3 </think> <answer> 3 </answer>")]
  start = time.perf_counter()
  with runner.Pool(rules.RULES) as pool:
    pool.submit(items).result(60)
    first = time.perf_counter() - start
    start = time.perf_counter()
    scores = pool.submit(items * 5000).result(60)
    rate = 5000 / (time.perf_counter() - start)
  assert all(s["accuracy"].value == 1 for s in scores)
  # Ten and five times slower than on two idle cores: loaded machines pass.
  assert first < 5
  assert rate > 1000


def test_close_leaves_nothing():
  pool = runner.Pool(ODD, workers=3, deadline=30)
  pids = [int(s.value) for s in judge(pool, *["pid"] * 50)]
  pending = pool.submit([(prompt(1), "", "hang")] * 5)
  pool.close()
  pool.close()
  for pid in set(pids):
    with pytest.raises(ChildProcessError):
      os.waitpid(pid, os.WNOHANG)
    assert not pathlib.Path(f"/proc/{pid}").exists()
  with pytest.raises(RuntimeError, match="closed"):
    pending.result(10)
  with pytest.raises(RuntimeError, match="closed"):
    pool.submit([(prompt(1), "", "a")])


def test_what_a_rule_started_dies_with_its_worker(pool):
  (score,) = judge(pool, "child")
  assert score.reason == "crash: exit 4"

  def sleeping():
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
      with contextlib.suppress(OSError):
        found += [path] if path.read_bytes() == b"sleep\x0098765\0" else []
    return found

  assert until(lambda: not sleeping())


def started(extra):
  """A Python parent with a pool, its children's pids on its first line."""
  code = (
      "from r1jax.core.types import Prompt\n"
      "from r1jax.rewards import runner\n"
      "from tests.rewards import odd_rules\n"
      "p = Prompt(id=1, domain='', source='', question='', reference='1')\n"
      "with runner.Pool({'odd': odd_rules.odd}, deadline=2) as pool:\n"
      "  s = pool.submit([(p, '', 'pid')] * 200).result()\n"
      "  print(*{int(x['odd'].value) for x in s}, flush=True)\n"
      + extra)
  parent = subprocess.Popen(
      [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL, text=True, start_new_session=True)
  return parent, [int(pid) for pid in parent.stdout.readline().split()]


@pytest.mark.parametrize("busy", [False, True])
def test_children_die_with_a_killed_parent(busy):
  hang = "  pool.submit([(p, '', 'hang')] * 2)\n" if busy else ""
  parent, pids = started(hang + "  import time; time.sleep(100)\n")
  assert pids and all(map(alive, pids))
  parent.kill()
  parent.wait()
  parent.stdout.close()
  assert until(lambda: not any(map(alive, pids)))


def test_ctrl_c_ends_parent_and_children():
  parent, pids = started("  pool.submit([(p, '', 'hang')] * 9).result()\n")
  os.killpg(parent.pid, signal.SIGINT)
  assert parent.wait(20) != 0
  parent.stdout.close()
  assert pids and until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("arguments,message", [
    (dict(workers=0), "workers=0"),
    (dict(deadline=0), "deadline=0"),
    (dict(rules={}), "rules is empty"),
    (dict(rules={"x": lambda p, t, c: None}), "cannot import it"),
])
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    runner.Pool(**{"rules": ODD} | arguments)


def test_bad_metadata_is_named_and_costs_nothing(pool):
  with pytest.raises(ValueError, match="prompt 7 .* JSON"):
    pool.submit([(prompt(7, x=object()), "", "a")]).result(60)
  assert judge(pool, "a")[0].valid


def test_rules_that_do_not_load_are_reported(monkeypatch):
  monkeypatch.setattr(runner, "_address", lambda *_: ["no.such", "rule"])
  with runner.Pool(ODD, workers=1) as pool:
    with pytest.raises(RuntimeError, match="could not load its rules"):
      pool.submit([(prompt(1), "", "a")]).result(60)
