import errno
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from r1jax.report import events, progress, writer
from tests import fake_gcs


def steps(workdir):
  return [row["step"] for row in writer.read(workdir)]


def test_rows_round_trip_and_null_for_non_finite(tmp_path):
  w = writer.Writer(tmp_path)
  w.write(1, {"loss": np.float32(0.5), "n": 3, "kl": float("nan")})
  w.write(2, {"loss": np.array(float("inf")), "stage": "grpo"})
  w.close()
  text = (tmp_path / "metrics.jsonl").read_text()
  assert "NaN" not in text and "Infinity" not in text
  assert [json.loads(line) for line in text.splitlines()] == [
      {"step": 1, "loss": 0.5, "n": 3, "kl": None},
      {"step": 2, "loss": None, "stage": "grpo"}]


def test_resuming_leaves_each_step_once(tmp_path):
  w = writer.Writer(tmp_path)
  for step in range(1, 6):
    w.write(step, {"loss": step})
  w.close()
  again = writer.Writer(tmp_path, resumed=3)
  assert steps(tmp_path) == [1, 2, 3]
  again.write(4, {"loss": 40})
  again.close()
  assert steps(tmp_path) == [1, 2, 3, 4]
  assert writer.read(tmp_path)[-1]["loss"] == 40
  writer.Writer(tmp_path).close()
  assert steps(tmp_path) == []


def test_a_line_cut_by_a_kill_is_dropped_and_another_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1, "a": 2}\n{"step": 2, "a"')
  assert steps(tmp_path) == [1]
  w = writer.Writer(tmp_path, resumed=1)
  w.write(2, {"a": 5})
  w.close()
  assert steps(tmp_path) == [1, 2]
  path.write_text('{"step": 1\n{"step": 2}\n')
  with pytest.raises(ValueError, match="metrics.jsonl line 1 is not JSON"):
    writer.read(tmp_path)


def test_flush_makes_rows_readable(tmp_path):
  w = writer.Writer(tmp_path)
  w.write(1, {"a": 1.0})
  assert steps(tmp_path) == []
  w.flush()
  w.flush()
  assert steps(tmp_path) == [1]
  w.close()


def test_tensorboard_has_the_scalars(tmp_path):
  w = writer.Writer(tmp_path)
  w.write(7, {"reward/accuracy": 0.25, "bad": float("nan")})
  w.close()
  found = {}
  for path in tmp_path.glob("events.out.tfevents.*"):
    data = path.read_bytes()
    while data:  # TFRecord: length, its check sum, the event, its check sum.
      length = int.from_bytes(data[:8], "little")
      event = event_pb2.Event.FromString(data[12:12 + length])
      for value in event.summary.value:
        found[value.tag] = (event.step, value.simple_value)
      data = data[16 + length:]
  assert found == {"reward/accuracy": (7, 0.25)}


def test_importing_it_takes_no_torch():
  """tensorboardX imports torch, which takes longer than all the rest."""
  done = subprocess.run(
      [sys.executable, "-c", "import sys; from r1jax.report import writer;"
       " sys.exit('torch' in sys.modules or 'tensorboardX' in sys.modules)"],
      cwd=pathlib.Path(__file__).parents[2])
  assert done.returncode == 0


def test_events_that_find_no_room_are_said_once(caplog):
  file = events.File("/dev/full")
  for _ in range(3):
    file.write(b"event")
    file.flush()
  file.close()
  assert len(caplog.records) == 1
  assert "/dev/full" in caplog.text and "No space left" in caplog.text


def test_a_row_that_found_no_room_is_not_written_twice(tmp_path, monkeypatch):
  w = writer.Writer(tmp_path)
  w.write(1, {"a": 1})
  w.flush()
  path = tmp_path / "metrics.jsonl"
  w.write(2, {"a": 2})

  def half(self, text):
    with path.open("a") as file:
      file.write(text[:9])
    raise OSError(errno.ENOSPC, "full")

  monkeypatch.setattr(writer.Writer, "_append", half)
  with pytest.raises(OSError, match="full"):
    w.flush()
  monkeypatch.undo()
  w.close()
  assert steps(tmp_path) == [1]
  writer.Writer(tmp_path, resumed=1).close()
  assert steps(tmp_path) == [1]


class Terminal(io.StringIO):

  def isatty(self):
    return True


def test_progress_is_lines_in_a_file_and_a_bar_in_a_terminal():
  file, terminal = io.StringIO(), Terminal()
  for stream, interval in ((file, 0.0), (terminal, 10.0)):
    with progress.Progress(
        "GRPO", 5, start=2, interval=interval, stream=stream) as p:
      for i in range(3):
        p.step({"accuracy": 0.25 * i})
      p.say("saved")
  lines = file.getvalue().splitlines()
  assert len(lines) == 4 and lines[-1] == "saved"
  assert lines[0].startswith("GRPO 3/5  after 0:00  accuracy")
  assert "steps/s  0:00 left" in lines[1]
  assert lines[2].startswith("GRPO 5/5  after 0:00  accuracy 0.5")
  assert "\r" not in file.getvalue()
  assert "\r" in terminal.getvalue() and "5/5" in terminal.getvalue()
  assert "accuracy 0.5" in terminal.getvalue()


def test_the_remaining_time_forgets_the_first_step(monkeypatch):
  """Which compiles: 100 s, then 2 s each."""
  file, clock = io.StringIO(), iter([0.0, 100.0, 102.0, 104.0])
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  with progress.Progress("GRPO", 20, interval=0.0, stream=file) as p:
    for _ in range(3):
      p.step({})
  assert file.getvalue().splitlines() == [
      "GRPO 1/20  after 1:40", "GRPO 2/20  0.50 steps/s  0:36 left",
      "GRPO 3/20  0.50 steps/s  0:34 left"]


def test_lines_are_rare_but_the_last_is_said():
  file = io.StringIO()
  with progress.Progress("GRPO", 50, interval=1e9, stream=file) as p:
    for _ in range(50):
      p.step({})
  assert len(file.getvalue().splitlines()) == 1


def test_a_notebook_gets_lines_on_standard_output(monkeypatch, capsys):
  kernel = type("OutStream", (io.StringIO,), {
      "__module__": "ipykernel.iostream"})
  monkeypatch.setattr("sys.stderr", kernel())
  with progress.Progress("GRPO", 1) as p:
    p.step({})
  assert capsys.readouterr().out.startswith("GRPO 1/1")


def test_percent_counts_bytes(monkeypatch):
  file = io.StringIO()
  monkeypatch.setattr("sys.stderr", file)
  with progress.percent("import") as report:
    for done in (1, 10**9, 2 * 10**9, 3 * 10**9):
      report(done, 3 * 10**9)
  line, = file.getvalue().splitlines()
  assert line.startswith("import 100/100") and line.endswith("GB 3")


@pytest.mark.parametrize("seconds, text", [
    (0, "0:00"), (75.4, "1:15"), (3700, "1:01:40"), (59.6, "1:00")])
def test_clock(seconds, text):
  assert progress.clock(seconds) == text


GS = """
from r1jax.report import writer

w = writer.Writer("gs://bucket/run")
for step in range(1, 6):
  w.write(step, {"loss": step})
  w.flush(lazily=True)
read = lambda: [row["step"] for row in writer.read("gs://bucket/run")]
assert read() == [1]
w.flush()
assert read() == [1, 2, 3, 4, 5]
again = writer.Writer("gs://bucket/run", resumed=3)
again.write(4, {"loss": 40})
again.close()
"""


def test_a_bucket_has_no_append_so_the_log_is_uploaded_now_and_then():
  with fake_gcs.Server() as server:
    server.run(GS)
    rows = server.objects["run/metrics.jsonl"].data.decode().splitlines()
    events = server.names("run/events.out.tfevents.")
  assert [json.loads(row) for row in rows] == [
      {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0},
      {"step": 3, "loss": 3.0}, {"step": 4, "loss": 40.0}]
  assert events
  assert server.writes["run/metrics.jsonl"] == 5  # two to begin with
