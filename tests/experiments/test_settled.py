"""What a run keeps of its beginning, whatever the calendar says."""

import datetime
import types

from experiments import common
from r1jax.core import io
from r1jax.data.text import hf_tokenizer
from r1jax.data.text import tokenizer as tokenizer_lib
from tests.data.streams import test_ends


def test_the_day_is_that_of_the_beginning(tmp_path, monkeypatch, capsys):
  tokenizer = hf_tokenizer.load(test_ends.base(tmp_path, test_ends.DATED))

  def on(day):
    class Date(datetime.date):
      @classmethod
      def today(cls):
        return cls.fromisoformat(day)

    monkeypatch.setattr(common.datetime, "date", Date)
    return common.settled(tokenizer, "chat", tmp_path / "run")

  first = on("2026-11-29")
  assert first.date == "2026-11-29"
  assert "in this run it is 2026-11-29" in capsys.readouterr().out
  tokenizer_lib.keep(first, tmp_path / "run")
  assert on("2026-11-30").date == "2026-11-29"
  monkeypatch.undo()
  assert common.settled(tokenizer, "chat", date="2026-01-01"
                        ).date == "2026-01-01"
  # Of a model that was trained on a day, that day goes on.
  assert common.settled(first, "chat", tmp_path / "other") is not tokenizer
  assert common.settled(first, "chat", tmp_path / "other").date == first.date
  assert common.settled(tokenizer, "r1-zero").date == ""


def test_a_folder_goes_on_with_the_step_that_it_began_with(
    tmp_path, monkeypatch):
  """As suites, safety and the quickstart do: the first that has begun."""
  run, empty, second = (tmp_path / name for name in ("run", "empty", "second"))
  io.write_json(run / "config.json", {"config": {}})
  monkeypatch.setattr(common, "INIT", types.SimpleNamespace(
      value=f"orbax:{run}"))
  (run / "checkpoints/5").mkdir(parents=True)
  assert common.frozen_in(empty, second) == f"orbax:{run}@5"
  io.write_json(second / "config.json",
                {"config": {"init": f"orbax:{run}@5"}})
  (run / "checkpoints/6").mkdir()
  assert common.frozen_in(empty, second) == f"orbax:{run}@5"
  assert common.frozen_in(empty) == f"orbax:{run}@6"
