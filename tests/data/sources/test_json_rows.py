"""Files of rows as they come: other encodings, packed, arrays, blank lines."""

import bz2
import codecs
import gzip
import json
import os

import pytest

from r1jax.data.sources import json_rows, preference_rows, rewardbench, sft_rows
from r1jax.data.streams import sft_stream
from tests.stages import cases

ROW = {"prompt": "a\u2028b", "completion": "c\x85d"}
LINE = json.dumps(ROW, ensure_ascii=False).encode() + b"\n"
# Without the time: tests have the same names in all processes.
PACKED = gzip.compress(LINE, mtime=0)


def read(path):
  return [json_rows.parse(line) for _, line in json_rows.lines(path)]


@pytest.mark.parametrize("data,message", [
    (LINE.decode().encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    (LINE.decode().encode("utf-32"), "is UTF-32 text; save it as UTF-8"),
    (LINE.decode().encode("utf-16-le"), "has null bytes, as UTF-16 text or"),
    (b"PAR1\x15\x04", "is a Parquet file; write it as JSON Lines"),
    (b"PK\x03\x04xx", "is a zip archive; unpack it"),
    (bz2.compress(LINE), "is packed by bzip2; unpack it"),
    (PACKED[:-9], "cannot be read .*end-of-stream"),
    (json.dumps(ROW, indent=1).encode() * 2, "jq -c . FILE writes indented")])
def test_what_is_no_text_says_what_it_is(tmp_path, data, message):
  path = tmp_path / "x.jsonl"
  path.write_bytes(data)
  with pytest.raises(ValueError, match=f"^{path} .*{message}"):
    read(path)


def test_a_stream_names_what_it_cannot_read(tmp_path):
  path = tmp_path / "x.jsonl"
  for data, message in ((PACKED, "is packed by gzip; unpack it"),
                        (LINE.decode().encode("utf-16"), "is UTF-16 text")):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
      sft_stream.load([path], cases.tokenizer(), "plain", 60, quiet=True)


@pytest.mark.parametrize("data", [
    LINE + LINE, LINE + LINE[:-1], codecs.BOM_UTF8 + b"\n" + LINE + b"\r\n"
    + LINE, LINE[:-1] + b"\r\n" + codecs.BOM_UTF8 + LINE,
    PACKED + PACKED, b"\n \n" + json.dumps([ROW, ROW]).encode(),
    b"\n" + json.dumps([ROW, ROW], indent=2).encode(),
    gzip.compress(json.dumps([ROW, ROW]).encode(), mtime=0)])
def test_the_same_rows_in_every_form(tmp_path, data):
  (tmp_path / "x").write_bytes(data)
  assert read(tmp_path / "x") == [ROW, ROW]


def test_a_pipe_keeps_nobody_waiting(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for load in (sft_rows.read, preference_rows.read, sft_stream.Lines.of,
               rewardbench.read):
    with pytest.raises(ValueError, match="pipe cannot be read .it is a pipe"):
      list(load(tmp_path / "pipe"))


@pytest.mark.parametrize("line,message", [
    (b"\xff", "it is not UTF-8 text .invalid start byte at byte 0"),
    (b'{"a": 1}, ', "it is not JSON .Extra data at column 9"),
    (b"[" * 99999, "its JSON is nested too deeply"),
    (b'{"a": 1%s}' % (b"0" * 5000), "Exceeds the limit"),
    (b"null", "it is not a JSON object")])
def test_what_is_wrong_with_a_line(line, message):
  with pytest.raises(ValueError, match=message):
    json_rows.parse(line)


@pytest.mark.parametrize("row,message", [
    ({"annotator1": [1], "instruction": "a", "input": "", "response1": "b",
      "response2": "c"}, "annotators are .*, not 0, 1 or 2"),
    ({"prompt": "a", "response": "b", "label": 10**400},
     "label=1000.* is neither"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 10**400},
     "margin=1000.* is not a number up to")])
def test_preferences_with_other_values_than_numbers(tmp_path, row, message):
  (tmp_path / "x").write_text(json.dumps(row))
  (_, left), = preference_rows.read(tmp_path / "x")
  with pytest.raises(ValueError, match=message):
    raise ValueError(left.detail)


def test_separators_of_unicode_end_no_row_of_rewardbench(tmp_path):
  row = {"prompt": "a\u2028b", "chosen": "c", "rejected": "d", "subset": "s"}
  (tmp_path / "x").write_text(json.dumps(row, ensure_ascii=False) + "\n")
  _, (item,) = rewardbench.read(tmp_path / "x")
  assert item.conversations[0][0]["content"] == "a\u2028b" and item.id == "1"
