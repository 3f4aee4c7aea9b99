import csv
import gzip

import pytest
from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows
from tests.data.sources.builders import cases


def parse(row):
  if row.fields.get("skip"):
    return None
  return Prompt(
      id=row.number, domain="math", source="x",
      messages=ask(rows.text(row.fields, "q")), reference=str(row.line),
      verifier="math")


def test_jsonl_numbers_lines_and_names_what_is_wrong(tmp_path):
  path = cases.lines(
      tmp_path / "a.jsonl", {"q": "one"}, "", {"q": "two"}, '{"q": "cut',
      "[1]", {"q": 3}, {"q": "  "}, {}, {"q": "ünï"}, {"skip": True},
      '{"q": "\\ud800"}')
  prompts, bad = cases.read(rows.jsonl, path, parse)
  assert [(p.id, p.question) for p in prompts] == [
      (0, "one"), (2, "two"), (8, "ünï")]
  assert bad == [
      "a.jsonl:4: not JSON (column 7: Unterminated string starting at)",
      "a.jsonl:5: not an object but list",
      "a.jsonl:6: no text under 'q'",
      "a.jsonl:7: no text under 'q'",
      "a.jsonl:8: no text under 'q'",
      "a.jsonl:11: a lone surrogate under 'q'",
  ]


def test_bytes_that_are_not_utf8_and_gzip(tmp_path):
  path = epath.Path(tmp_path / "a.jsonl")
  path.write_bytes(b'{"q": "one"}\n{"q": "\xff"}\n')
  assert cases.read(rows.jsonl, path, parse)[1] == ["a.jsonl:2: not UTF-8"]
  zipped = epath.Path(tmp_path / "b.jsonl.gz")
  zipped.write_bytes(gzip.compress(b'{"q": "one"}\n' * 200))
  assert len(list(rows.jsonl([zipped], parse))) == 200
  zipped.write_bytes(zipped.read_bytes()[:-20])
  with pytest.raises(ValueError, match="b.jsonl.gz cannot be read"):
    list(rows.jsonl([zipped], parse))
  with pytest.raises(ValueError, match="none.jsonl cannot be read .No such"):
    list(rows.jsonl([path.parent / "none.jsonl"], parse))


@pytest.mark.parametrize("bad, good, refused", [
    (1, 99, False), (1, 98, True), (2, 198, False), (2, 197, True)])
def test_over_one_percent_is_an_error_that_names_the_first_three(
    tmp_path, bad, good, refused):
  path = cases.lines(
      tmp_path / "a.jsonl", *[{"q": "x"}] * good, *["{}"] * bad)
  items = rows.jsonl([path], parse)
  if not refused:
    assert len(list(items)) == bad + good
    return
  with pytest.raises(ValueError) as error:
    list(items)
  said = str(error.value)
  assert f"{bad} of {bad + good} rows are malformed (at most 1% may" in said
  assert said.count("no text under 'q'") == bad


def test_three_are_named_of_four_and_empty_files_refused(tmp_path):
  path = cases.lines(tmp_path / "a.jsonl", *["{}"] * 4)
  with pytest.raises(ValueError, match="4 of 4") as error:
    list(rows.jsonl([path], parse))
  assert [f"a.jsonl:{i}: " in str(error.value) for i in range(1, 5)] == [
      True, True, True, False]
  with pytest.raises(ValueError, match=r"b.jsonl: the file is empty;"):
    list(rows.jsonl([cases.lines(tmp_path / "b.jsonl", "", "")], parse))


def test_the_share_is_of_each_file_and_numbers_run_on(tmp_path):
  one = cases.lines(tmp_path / "a.jsonl", *[{"q": "x"}] * 500)
  two = cases.lines(tmp_path / "b.jsonl", *[{"q": "x"}] * 9, "{")
  seen = []
  with pytest.raises(ValueError, match="b.jsonl: 1 of 10 rows"):
    for item in rows.jsonl([one, two], parse):
      seen.append(item)
  assert [p.id for p in seen[:-1]] == list(range(509))


def test_arrays_objects_and_lines_under_a_json_name(tmp_path):
  array = epath.Path(tmp_path / "a.json")
  array.write_text('[{"q": "one"}, 7, {"q": "two"}]')
  prompts, bad = cases.read(rows.elements, array, parse)
  assert [(p.id, p.question) for p in prompts] == [(0, "one"), (2, "two")]
  assert bad == ["a.json:2: not an object but int"]
  odd = cases.lines(tmp_path / "b.json", {"q": "one"}, {"q": "two"})
  assert [p.id for p in rows.elements([odd], parse)] == [0, 1]
  array.write_text('[{"q": "one"},\n {"q": ')
  assert cases.read(rows.elements, array, parse) == (
      [], ["a.json:2: not JSON (column 8: Expecting value)"])
  array.write_text('{"rows": [{"q": "one"}], "canary": "bird"}')
  (row,) = rows.elements(
      [array], lambda row: row.fields["_file"]["canary"], key="rows")
  assert row == "bird"
  with pytest.raises(ValueError, match="no JSON array under 'other'"):
    list(rows.elements([array], parse, key="other"))


def test_tables(tmp_path):
  path = cases.table(
      tmp_path / "a.csv", ["q", "a"], ["one", "1"], ["two\nlines, one cell",
      "2"], ["three"], ["x", "y", "z"], "", '"a"b,c', ["", "4"],
      ["five", "5"], '"cut')
  prompts, bad = cases.read(rows.table, path, parse)
  assert [(p.id, p.question) for p in prompts] == [
      (0, "one"), (1, "two\nlines, one cell"), (6, "five")]
  assert bad == [
      "a.csv:5: 1 columns where 2 are expected",
      "a.csv:6: 3 columns where 2 are expected",
      "a.csv:8: not ','-delimited text (',' expected after '\"')",
      "a.csv:9: no text under 'q'",
      "a.csv:11: not ','-delimited text (unexpected end of data)",
  ]


def test_delimiters_encodings_and_wrong_ones(tmp_path):
  path = cases.table(
      tmp_path / "a.csv", ["q", "a"], ["x,y,z", "1"], delimiter=";")
  options = {"delimiters": ",;", "encodings": ("utf-8-sig", "cp1252")}
  (prompt,) = rows.table([path], parse, **options)
  assert prompt.question == "x,y,z"
  path.write_bytes("q,a\nfüür,1\n".encode("cp1252"))
  (prompt,) = rows.table([path], parse, **options)
  assert prompt.question == "füür"
  with pytest.raises(ValueError, match="is not utf-8-sig text"):
    list(rows.table([path], parse))
  path.write_bytes(b"\xef\xbb\xbfq\ta\none\t1\n")
  (prompt,) = rows.table([path], parse, delimiters="\t")
  assert prompt.question == "one"
  # The wrong delimiter shows as a lack of columns.
  assert cases.read(rows.table, path, parse)[1] == [
      "a.csv:2: no text under 'q'"]
  path.write_text('"one\t1\n')
  (prompt,) = rows.table(
      [path], lambda row: row.fields, header=False, columns=2,
      delimiters="\t", quoting=csv.QUOTE_NONE)
  assert prompt == ['"one', "1"]


@pytest.mark.parametrize("value, good", [
    (3, True), ("3", True), (" 4 ", True), (0, True), (9, True), (10, False),
    (-1, False), ("", False), (None, False), (True, False), (3.0, False),
    ("3.0", False), ("1" * 5000, False), ("²", False)])
def test_integers(value, good):
  if good:
    assert rows.integer({"n": value}, "n", 0, 9) == int(value)
  else:
    with pytest.raises(ValueError, match="not a number in 0..9"):
      rows.integer({"n": value}, "n", 0, 9)


@pytest.mark.parametrize("value", [None, "ab", [], [1], ["a", None]])
def test_lists_of_texts(value):
  assert rows.texts({"t": ["a", ""]}, "t") == ["a", ""]
  with pytest.raises(ValueError, match="no list of 1 or more texts"):
    rows.texts({"t": value}, "t")
