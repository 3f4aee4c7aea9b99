import numpy as np

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import statistics


def prompt(number, domain, source, question, language="en"):
  return Prompt(id=number, domain=domain, source=source,
                messages=ask(question), reference="", verifier="",
                language=language)


ROWS = [
    *[prompt(i, "math", "b", "word " * (i + 1)) for i in range(20)],
    prompt(0, "math", "a", "小明有苹果了吗你", "zh"),
    prompt(1, "math", "a", "one two", "zh"), prompt(2, "math", "a", "one"),
    prompt(0, "code", "c", "fix this now")]


def test_groups():
  groups = statistics.groups(reversed(ROWS))
  assert [(g.domain, g.source) for g in groups] == [
      ("code", "c"), ("math", "a"), ("math", "b")]
  np.testing.assert_array_equal(groups[1].lengths, [1, 2, 5])
  assert list(groups[1].languages.items()) == [("zh", 2), ("en", 1)]


def test_table():
  lines = statistics.table(statistics.groups(ROWS)).splitlines()
  cells = [line.split() for line in lines[2:]]
  assert cells == [
      ["code", "c", "1", "3.0", "3.0", "3.0", "3.0", "en", "1"],
      ["math", "a", "3", "2.7", "2.0", "4.7", "5.0", "zh", "2,", "en", "1"],
      ["math", "b", "20", "10.5", "10.5", "19.1", "20.0", "en", "20"],
      ["math", "all", "23", "9.5", "9.0", "18.9", "20.0", "en", "21,", "zh",
       "2"],
      ["all", "all", "24", "9.2", "8.5", "18.8", "20.0", "en", "22,", "zh",
       "2"]]


def test_one_source_needs_no_sum():
  table = statistics.table(statistics.groups(ROWS[:20]))
  assert len(table.splitlines()) == 3 and "all" not in table
