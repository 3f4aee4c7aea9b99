from __future__ import annotations

import contextlib
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import format
from r1jax.rewards.pool import child, runner
from r1jax.rewards.score import Score
from tests.rewards.pool import odd_rules

ROOT = pathlib.Path(__file__).parents[3]
ODD = {"odd": odd_rules.odd, "length": odd_rules.length}
RETURNED = "the rule tests.rewards.pool.odd_rules.odd returned "
TABLES = {
    "accuracy": {"a": odd_rules.table_a, "b": odd_rules.table_b},
    "length": odd_rules.length}


def prompt(i, verifier="", **metadata):
  return Prompt(id=i, domain="math", source="test", messages=ask(f"{i}?"),
                reference=str(i), verifier=verifier, metadata=metadata)


@pytest.fixture(scope="module")
def pool():
  with runner.Pool(ODD, deadline=0.5) as pool:
    yield pool


def judge(pool, *completions):
  items = [(prompt(i), "", c) for i, c in enumerate(completions)]
  return pool.submit(items).result(60)


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
  items = [(p, "T", f"{'ä' * g}\n\ud800{g}") for p in prompts
           for g in range(25)]
  for handle in [pool.submit(items), pool.submit(items)]:
    got = handle.result(60)
    assert got == [
        {"odd": Score(p.id, True, "T" + text, {"level": p.id % 7}, "T" + text),
         "length": Score(len("T" + text), True, f"{p.id}?")}
        for p, _, text in items]
  assert pool.submit([]).result(0) == []


def test_rules_by_verifier():
  items = [(prompt(1, "a"), "<think>", "x</think> 1"),
           (prompt(2, "b"), "", "2"), (prompt(3), "", "333")]
  with runner.Pool(TABLES, workers=1) as pool:
    got = pool.submit(items).result(60)
  assert [{n: s.reason for n, s in scores.items()} for scores in got] == [
      {"accuracy": "a a 1", "length": "1?"},
      {"accuracy": "b b 2", "length": "2?"}, {"length": "3?"}]
  assert [scores["length"].value for scores in got] == [18, 1, 3]


@pytest.mark.parametrize("completion,reason", [
    ("sysexit", "SystemExit: 0"),
    ("raise", "KeyError: 'x'"),
    ("recursion", "RecursionError"),
    ("memory", "MemoryError"),
    ("nothing", RETURNED + "'a string is no verdict'"),
    ("nan", RETURNED + "a value or part that is no finite"),
    ("text value", RETURNED + "a value or part that is no finite"),
    ("nan part", RETURNED + "a value or part that is no finite"),
    ("text part", RETURNED + "a value or part that is no finite"),
    ("odd name", RETURNED + "a part whose name is no text"),
    ("no parts", "AttributeError"),
    ("odd answer", RETURNED + "an answer that is no text"),
    ("odd repr", "ValueError: no repr"),
])
def test_what_a_rule_raises_costs_its_own_verdict(pool, completion, reason):
  texts = ["a", "b", completion, "c"]
  scores = judge(pool, *texts)
  bad = scores[2].pop("odd")
  assert (bad.value, bad.valid, bad.parts, bad.answer) == (0, False, {}, None)
  assert bad.reason.startswith(reason)
  assert "odd_rules.odd" in bad.reason
  assert [s["length"].value for s in scores] == [len(t) for t in texts]
  assert [s["odd"].reason for s in scores if "odd" in s] == ["a", "b", "c"]


def test_bare_numbers_are_verdicts(pool):
  """A bool, a float, NumPy's scalars."""
  values = [s["odd"].value for s in judge(pool, *odd_rules.PLAIN)]
  assert values == [1.0, 0.5, 1.0, 0.25, 0.25]


def test_a_rule_that_does_not_apply_is_absent(pool):
  assert [set(s) for s in judge(pool, "a", "does not apply")] == [
      {"odd", "length"}, {"length"}]


@pytest.mark.parametrize("completion,reason,valid", [
    ("exit", "crash: exit 3", False),
    ("segv", "crash: SIGSEGV", False),
    # To burn the deadline must not beat a wrong answer.
    ("hang", "deadline", True),
    ("hang in C", "deadline", True),
    # Each takes less than the deadline, which the item has only once.
    ("deadline by two rules", "deadline", True),
])
def test_a_death_costs_one_item(pool, completion, reason, valid):
  texts = ["a"] * 5 + [completion] + ["b"] * 30
  scores = judge(pool, *texts)
  assert scores.pop(5) == {
      name: Score(0.0, valid, reason) for name in ("odd", "length")}
  del texts[5]
  assert [s["odd"].reason for s in scores] == texts


def test_a_deadline_is_tried_again_in_a_fresh_process(tmp_path):
  """What was late by the machine's fault gets its verdict."""
  mark = tmp_path / "late"
  with runner.Pool(ODD, workers=1, deadline=0.5) as pool:
    scores = judge(pool, "a", f"late once {mark}", "b")
  assert [(s["odd"].reason.split()[0], s["odd"].valid) for s in scores] == [
      ("a", True), ("late", True), ("b", True)]
  assert mark.exists()


def test_a_death_names_the_rules_that_apply():
  rules = {"odd": odd_rules.odd, **TABLES}
  items = [(prompt(1), "", "exit"), (prompt(2, "a"), "", "exit")]
  with runner.Pool(rules, workers=1) as pool:
    assert [set(s) for s in pool.submit(items).result(60)] == [
        {"odd", "length"}, {"odd", "length", "accuracy"}]


def test_many_failures(pool):
  scores = judge(pool, *["exit", "a", "hang", "exit", "b"] * 2)
  assert [s["odd"].valid for s in scores] == [
      False, True, True, False, True] * 2


def test_death_while_idle_costs_nothing():
  with runner.Pool(ODD, workers=1) as pool:
    (score,) = judge(pool, "pid")
    os.kill(int(score["odd"].value), signal.SIGKILL)
    assert until(lambda: not alive(int(score["odd"].value)))
    assert judge(pool, "a")[0]["odd"].valid


def test_spent_memory_costs_nothing_and_changes_the_process():
  with runner.Pool(ODD, workers=1) as pool:
    scores = judge(pool, "pid", "memory", *["pid"] * 20)
    later = judge(pool, "pid")
  pids = [s["odd"].value for s in scores if s["odd"].valid] + [
      later[0]["odd"].value]
  assert len(pids) == 22 and len(set(pids)) == 2


def test_a_large_parent_costs_its_children_nothing():
  """Linux starts a child's peak of memory at its parent's."""
  code = (
      "from tests.rewards.pool import test_runner as t\n"
      "held = b'x' * (1 << 31)\n"
      "with t.runner.Pool(t.ODD, workers=1) as pool:\n"
      "  scores = t.judge(pool, *['pid'] * 20)\n"
      "print(len({s['odd'].value for s in scores}))\n")
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True,
                        capture_output=True, timeout=120)
  assert done.stdout == "1\n", done.stderr


def test_the_peak_is_of_memory_that_was_used():
  """Whatever this process used, which starts the one that is asked."""
  code = ("from r1jax.rewards.pool import worker\n"
          "worker._SPENT = 0\n"
          "before = worker.peak()\n"
          "held = b'x' * (1 << 28)\n"
          "print(before, worker.peak())\n")
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True,
                        capture_output=True, check=True)
  unit = 1 if sys.platform == "darwin" else 1024
  before, after = (unit * int(kib) for kib in done.stdout.split())
  # Imports may have freed some of what was their peak.
  assert 0 < before < 1 << 27 <= after - before < 1 << 29


def test_prints_do_not_forge_verdicts(capfd):
  with runner.Pool(ODD, workers=1) as pool:
    scores = judge(pool, "print", "a")
  assert [s["odd"].reason for s in scores] == ["print", "a"]
  assert "forged" in capfd.readouterr().err


def test_stopped_clock_does_not_count(pool):
  assert judge(pool, "import")[0]["odd"].valid


def test_parent_kills_what_no_alarm_can(monkeypatch):
  monkeypatch.setattr(child, "GRACE", 1.5)
  with runner.Pool(ODD, deadline=0.2) as pool:
    assert [s["odd"].reason for s in judge(pool, "a", "deaf", "b")] == [
        "a", "deadline", "b"]


def test_children_import_no_jax(pool):
  modules = judge(pool, "modules")[0]["odd"].answer.split()
  assert "r1jax.rewards.score" in modules
  assert not {"jax", "flax", "numpy", "sympy", "pytest"} & set(modules)


def test_large_texts_in_both_directions(pool):
  texts = ["x" * n + str(n) for n in (3_000_000, 2, 1_000_000, 200_000) * 3]
  assert [s["odd"].answer for s in judge(pool, *texts)] == texts


def test_slow_items_are_shared_out():
  with runner.Pool(ODD, workers=2, deadline=5) as pool:
    judge(pool, *["a"] * 500)  # fast ones first, so that helpings grow
    start = time.perf_counter()
    judge(pool, *["nap"] * 8)
    # One child alone would take 2.4 s.
    assert time.perf_counter() - start < 1.9


def test_first_result_soon_and_many_a_second():
  rules = {"format": format.think_answer, "length": odd_rules.length}
  items = [(prompt(3), "", "<think> 1+2=3 </think> <answer> 3 </answer>")]
  start = time.perf_counter()
  with runner.Pool(rules) as pool:
    pool.submit(items).result(60)
    first = time.perf_counter() - start
    start = time.perf_counter()
    scores = pool.submit(items * 10_000).result(60)
    rate = 10_000 / (time.perf_counter() - start)
  assert all(s["format"].value == 1 for s in scores)
  # Ten and five times slower than on two idle cores: loaded machines pass.
  assert first < 5
  assert rate > 4000


def test_nothing_leaks():
  """Memory and open files after 10,000 items and after 100,000 more."""
  def state():
    # Both children judge some of 200 items; which one a single item meets is
    # a matter of chance.
    seen = {}
    for scores in judge(pool, *["rss"] * 200):
      odd = scores["odd"]
      seen["open"] = odd.parts["open"]
      seen["child"] = max(odd.value, seen.get("child", 0))
    gc.collect()
    status = pathlib.Path("/proc/self/statm").read_text().split()
    return seen | {"parent": int(status[1]) * 4096,
                   "parent blocks": sys.getallocatedblocks(),
                   "parent open": len(os.listdir("/proc/self/fd")),
                   "threads": threading.active_count()}

  text = f"1</think> <answer> 1 </answer> {'x' * 99}"
  items = [(prompt(i), "<think>", text) for i in range(1000)]
  with runner.Pool({"odd": odd_rules.odd, "format": format.think_answer},
                   workers=2) as pool:
    for _ in range(10):
      pool.submit(items).result(60)
    before = state()
    for _ in range(100):
      pool.submit(items).result(60)
    after = state()
  for name in ("open", "parent open", "threads"):
    assert after[name] == before[name]
  # 100,000 leaked items would be as many blocks, or 10 MB of texts. The
  # parent's allocator has one arena a thread: it takes longer to settle.
  assert after["parent blocks"] - before["parent blocks"] < 10_000
  assert after["child"] - before["child"] < 5e6
  assert after["parent"] - before["parent"] < 25e6


def test_submit_waits_for_room():
  with runner.Pool(ODD, workers=1, deadline=20, pending=10) as pool:
    judge(pool, *["a"] * 50)  # more than may be pending, with none before
    first = pool.submit([(prompt(1), "", "nap")] * 8)
    start = time.perf_counter()
    second = pool.submit([(prompt(1), "", "a")] * 2)
    assert time.perf_counter() - start < 0.25
    third = pool.submit([(prompt(1), "", "a")] * 2)
    assert time.perf_counter() - start > 0.4  # two naps had to end
    assert not first.done()
    assert [len(h.result(60)) for h in (first, second, third)] == [8, 2, 2]


def test_closing_wakes_who_waits_for_room():
  pool = runner.Pool(ODD, workers=1, deadline=30, pending=1)
  pool.submit([(prompt(1), "", "hang")])
  errors = []

  def submit():
    with pytest.raises(RuntimeError, match="closed") as error:
      pool.submit([(prompt(1), "", "a")])
    errors.append(error)

  thread = threading.Thread(target=submit)
  thread.start()
  time.sleep(0.2)
  assert thread.is_alive()
  pool.close()
  thread.join(10)
  assert errors


def test_close_leaves_nothing():
  pool = runner.Pool(ODD, workers=3, deadline=30)
  pids = [int(s["odd"].value) for s in judge(pool, *["pid"] * 50)]
  pending = pool.submit([(prompt(1), "", "hang")])
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
  assert score["odd"].reason == "crash: exit 4"

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
      # Tests in the background of a shell inherit an ignored Ctrl-C.
      "import signal\n"
      "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
      "from r1jax.core.prompt import Prompt, ask\n"
      "from r1jax.rewards.pool import runner\n"
      "from tests.rewards.pool import odd_rules\n"
      "p = Prompt(id=1, domain='', source='', messages=ask('?'),\n"
      "           reference='1', verifier='')\n"
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
    (dict(pending=0), "pending=0"),
    (dict(deadline=0), "deadline=0"),
    (dict(rules={}), "rules is empty"),
    (dict(rules={"x": lambda p, r: None}), "'x' .* cannot import it"),
    (dict(rules={"x": {"y": lambda p, r: None}}), "'x:y' .* cannot import it"),
    (dict(rules={"x": {"": odd_rules.odd}}), "named ''"),
])
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    runner.Pool(**{"rules": ODD} | arguments)


def test_unknown_verifier_is_refused_at_once():
  with runner.Pool(TABLES, workers=1) as pool:
    with pytest.raises(ValueError, match="prompt 7 .*'c'.*'accuracy'.* a, b"):
      pool.submit([(prompt(1, "a"), "", "x"), (prompt(7, "c"), "", "x")])
    assert len(pool.submit([(prompt(1, "a"), "", "x")]).result(60)) == 1


def test_bad_prompts_are_named_and_cost_nothing(pool):
  with pytest.raises(ValueError, match="prompt 7 .* JSON"):
    pool.submit([(prompt(7, x=object()), "", "a")]).result(60)
  silent = Prompt(id=8, domain="", source="", messages=(), reference="",
                  verifier="")
  with pytest.raises(ValueError, match="prompt 8 .* no messages"):
    pool.submit([(silent, "", "a")]).result(60)
  assert judge(pool, "a")[0]["odd"].valid


def test_rules_that_do_not_load_are_reported(monkeypatch):
  monkeypatch.setattr(runner, "_addresses", lambda *_: ["no.such", "rule"])
  with runner.Pool(ODD, workers=1) as pool:
    for _ in range(2):
      with pytest.raises(RuntimeError, match="could not load its rules"):
        pool.submit([(prompt(1), "", "a")] * 3).result(60)
