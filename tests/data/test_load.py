import json
import pathlib
import subprocess
import sys

import pytest

from r1jax.data import arithmetic, load
from r1jax.data.builders import arithmetic as arithmetic_builder
from r1jax.data.builders import gsm8k

GSM8K = pathlib.Path(__file__).parents[2] / "../shared/data/gsm8k"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def small(monkeypatch):
  for index, split in enumerate(arithmetic_builder.SIZES):
    monkeypatch.setitem(arithmetic_builder.SIZES, split, 40 + index)


def _row(number):
  return json.dumps({
      "question": f"Is it {number}? Ünïcode\nlines",
      "answer": f"Yes.\n#### {number:,}"})


def _write(folder, train, test=3):
  folder.mkdir(exist_ok=True)
  (folder / "train.jsonl").write_text("\n".join(train) + "\n")
  (folder / "test.jsonl").write_text("\n".join(map(_row, range(test))) + "\n")
  return folder


def test_arithmetic_prompts(small, tmp_path):
  ids, questions = [], {}
  for index, split in enumerate(("train", "validation", "test", "hard")):
    prompts = load.load("arith", None, split)
    assert len(prompts) == 40 + index
    want = {p.question: p for p in arithmetic.examples(split, 40 + index)}
    for prompt in prompts:
      made = want[prompt.question]
      assert prompt.reference == str(made.answer)
      assert prompt.metadata == {"level": made.level, "kind": made.kind}
      assert (prompt.domain, prompt.source) == ("math", "arith")
    ids += [p.id for p in prompts]
    questions[split] = set(want)
  assert len(set(ids)) == len(ids) and max(ids) < 2**31
  assert len(set.union(*questions.values())) == len(ids)
  files = list((tmp_path / "cache/r1jax/tfds/arithmetic").rglob("*array_rec*"))
  assert len(files) == 4


def test_prompts_are_a_sequence_and_data_dir_is_used(small, tmp_path):
  prompts = load.load("arith", tmp_path / "mine", "test")
  assert (tmp_path / "mine/arithmetic").exists()
  assert prompts[-1] == prompts[len(prompts) - 1]
  assert prompts[3:6] == [prompts[i] for i in (3, 4, 5)]
  with pytest.raises(IndexError):
    prompts[len(prompts)]
  sliced = load.load("arith", tmp_path / "mine", "test[:5]")
  assert list(sliced) == prompts[:5]


def test_unknown_names(small):
  with pytest.raises(ValueError, match="choose from arith, gsm8k"):
    load.load("math", None, "train")
  with pytest.raises(ValueError, match="no split 'dev'; it has"):
    load.load("arith", None, "dev")
  with pytest.raises(ValueError, match="needs --data_dir=DIR"):
    load.load("gsm8k", None, "train")


def test_all_of_gsm8k():
  if not GSM8K.exists():
    pytest.skip(f"no data at {GSM8K}")
  ids = set()
  for split, count in (("train", 7240), ("validation", 233), ("test", 1319)):
    prompts = load.load("gsm8k", GSM8K, split)
    assert len(prompts) == count
    for p in prompts:
      float(p.reference)
      assert p.question and p.metadata["solution"]
      assert p.metadata["solution"].replace(",", "").endswith(p.reference)
      ids.add(p.id)
  assert len(ids) == 8792


@pytest.mark.parametrize("end, reference", [
    ("#### 18", "18"), ("#### 1,234,567", "1234567"), ("#### -5", "-5"),
    ("####3.50", "3.50"), ("#### $7", "7"), ("#### .5 ", ".5"),
])
def test_references(end, reference):
  row = json.dumps({"question": "q", "answer": f"a\n{end}"})
  assert gsm8k.parse(row)["reference"] == reference


@pytest.mark.parametrize("line, reason", [
    ("{", "not JSON"), ("[1]", "not an object but list"),
    ('{"question": "q"}', "no text under 'answer'"),
    ('{"question": 3, "answer": "#### 3"}', "no text under 'question'"),
    ('{"question": "q", "answer": "3"}', "does not end in '#### NUMBER'"),
    ('{"question": "q", "answer": "#### three"}', "does not end in"),
])
def test_malformed_rows_have_reasons(line, reason):
  with pytest.raises(ValueError, match=reason):
    gsm8k.parse(line)


def test_few_malformed_rows_are_skipped_and_reported(tmp_path, caplog):
  lines = [_row(i) for i in range(200)]
  lines[6] = "{broken"
  folder = _write(tmp_path / "gsm8k", lines)
  rows, bad = gsm8k.read(folder / "train.jsonl")
  assert len(rows) == 199 and len(bad) == 1
  assert bad[0].startswith(f"{folder / 'train.jsonl'}:7: not JSON")
  with caplog.at_level("WARNING"):
    train = load.load("gsm8k", folder, "train")
  assert "train.jsonl:7: not JSON" in caplog.text
  assert "skipped 1 malformed" in caplog.text
  held = load.load("gsm8k", folder, "validation")
  assert len(train) + len(held) == 199 and len(held) == 200 // 32
  assert not {p.id for p in train} & {p.id for p in held}
  assert {p.id for p in load.load("gsm8k", folder, "test")} == {
      1_000_000, 1_000_001, 1_000_002}
  assert train[0].question.endswith("Ünïcode\nlines")


def test_many_malformed_rows_are_an_error(tmp_path):
  folder = _write(tmp_path / "gsm8k", [_row(i) for i in range(50)] + ["{}"])
  with pytest.raises(ValueError, match="1 of 51 rows.*train.jsonl:51: no text"):
    load.load("gsm8k", folder, "train")


def test_missing_file_and_changed_file(tmp_path):
  with pytest.raises(ValueError, match="train.jsonl does not exist"):
    load.load("gsm8k", tmp_path, "train")
  folder = _write(tmp_path / "gsm8k", [_row(i) for i in range(40)])
  assert len(load.load("gsm8k", folder, "test")) == 3
  _write(folder, [_row(i) for i in range(40)], test=5)
  assert len(load.load("gsm8k", folder, "test")) == 5


_CHILD = """
import sys
from r1jax.data import load
print(len(load.load("gsm8k", sys.argv[1], "train")))
sys.exit("tensorflow" in sys.modules)
"""


def test_two_processes_prepare_at_once_without_tensorflow(tmp_path):
  folder = _write(tmp_path / "gsm8k", [_row(i) for i in range(64)])
  children = [
      subprocess.Popen(
          [sys.executable, "-c", _CHILD, str(folder)], text=True,
          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
      for _ in range(2)]
  for child in children:
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert out.strip().endswith("62")
