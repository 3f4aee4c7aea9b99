"""What a run keeps of its beginning, whatever the calendar says."""

import datetime

from experiments import common
from r1jax.data import hf_tokenizer
from r1jax.data import tokenizer as tokenizer_lib
from tests.data import test_ends


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
  assert "for this run it is 2026-11-29" in capsys.readouterr().out
  tokenizer_lib.keep(first, tmp_path / "run")
  assert on("2026-11-30").date == "2026-11-29"
  monkeypatch.undo()
  assert common.settled(tokenizer, "chat", date="2026-01-01"
                        ).date == "2026-01-01"
  # Of a model that was trained on a day, that day goes on.
  assert common.settled(first, "chat", tmp_path / "other") is not tokenizer
  assert common.settled(first, "chat", tmp_path / "other").date == first.date
  assert common.settled(tokenizer, "r1-zero").date == ""
