import collections
import json
import subprocess
import sys

import pytest

from r1jax.data.sources import arithmetic, load
from r1jax.data.sources.builders import arith, record
from tests import shared


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def small(monkeypatch):
  for index, split in enumerate(arith.SPLITS):
    monkeypatch.setitem(arith.SPLITS, split, 40 + index)


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
    made = arithmetic.examples(split, 40 + index)
    # Ids address randomness: they stay what they are.
    want = {1_000_000 * index + i: p for i, p in enumerate(made)}
    assert {p.id for p in prompts} == set(want)
    for prompt in prompts:
      problem = want[prompt.id]
      assert prompt.question == problem.question
      assert prompt.reference == str(problem.answer)
      assert prompt.metadata == {"level": problem.level, "kind": problem.kind}
      assert (prompt.domain, prompt.source, prompt.verifier) == (
          "math", "arith", "math")
    ids += list(want)
    questions[split] = {p.question for p in prompts}
  assert len(set(ids)) == len(ids) and max(ids) < 2**31
  assert len(set.union(*questions.values())) == len(ids)
  cache = tmp_path / "cache/r1jax/tfds"
  files = list(cache.rglob("math/arith/*/*array_rec*"))
  assert len(files) == 4


def test_prompts_are_a_sequence(small):
  prompts = load.load("arith", None, "test")
  assert prompts[-1] == prompts[len(prompts) - 1]
  assert prompts[3:6] == [prompts[i] for i in (3, 4, 5)]
  with pytest.raises(IndexError):
    prompts[len(prompts)]
  sliced = load.load("arith", None, "test[:5]")
  assert list(sliced) == prompts[:5]
  # As Python's own slices, and as the prompts of a file of one's own.
  assert list(load.load("arith", None, "test[3:999]")) == prompts[3:999]
  assert prompts[4:4] == []


@pytest.mark.parametrize("size", [1, 7, 64])
def test_iteration_reads_all(small, monkeypatch, size):
  monkeypatch.setattr(load, "READ", size)
  prompts = load.load("arith", None, "test")
  assert list(prompts) == [prompts[i] for i in range(len(prompts))]


def test_unknown_names(small, tmp_path):
  with pytest.raises(ValueError, match="choose from arith, world-sums"):
    load.load("trivia", None, "train")
  with pytest.raises(ValueError, match="no split 'dev'; it has"):
    load.load("arith", None, "dev")
  with pytest.raises(ValueError, match="'gsm8k' needs --data_dir=DIR, a folder "
                     "with its files: train.jsonl, test.jsonl"):
    load.load("gsm8k", None, "train")
  with pytest.raises(ValueError, match="gsm8k is neither in .*/gsm8k"):
    load.load("gsm8k", tmp_path, "train")


def test_all_of_gsm8k():
  folder = shared.folder("gsm8k")
  ids = set()
  for split, count in (("train", 7240), ("validation", 233), ("test", 1319)):
    prompts = load.load("gsm8k", folder, split)
    assert len(prompts) == count
    for p in prompts:
      float(p.reference)
      assert p.question and p.metadata["solution"]
      assert p.metadata["solution"].replace(",", "").endswith(p.reference)
      assert (p.id >= 1_000_000) == (split == "test")
      assert (p.id % 32 == 31) == (split == "validation") or split == "test"
      ids.add(p.id)
  assert len(ids) == 8792


# Rows that are there (by split or verifier), and how many are malformed.
COUNTS = {
    "imo_answerbench": ({"test": 399}, 1), "mgsm": ({"test": 2750}, 0),
    "cmath": ({"dev": 600, "distractor": 360}, 0),
    "humaneval": ({"test": 164}, 0), "humanevalfix": ({"test": 164}, 0),
    "mbpp": ({"prompt": 10, "test": 500, "validation": 90, "train": 374}, 0),
    "mbpp_sanitized": (
        {"prompt": 7, "test": 257, "validation": 43, "train": 120}, 0),
    "quixbugs": ({"test": 31}, 0), "code_contests": ({"test": 156}, 0),
    "mmlu_stem": ({"test": 3018}, 0), "mmlu_redux": ({"test": 5330}, 0),
    "bbh": ({"test": 6508}, 3), "logicbench": ({"test": 2020}, 0),
    "game24": ({"test": 1362}, 0), "cruxeval": ({"test": 800}, 0),
    "cruxeval_input": ({"test": 800}, 0), "ifeval": ({"test": 541}, 0),
    "pandalm": ({"test": 999}, 0),
}
MORE = {
    "mmlu_redux": lambda p: len({x.metadata["subject"] for x in p}) == 57,
    "mgsm": lambda p: set(collections.Counter(
        x.language for x in p).values()) == {250},
    "bbh": lambda p: (
        len({x.metadata["task"] for x in p}) == 27
        and all("canary" in x.metadata for x in p)
        and not any("canary GUID" in x.question for x in p)),
    "logicbench": lambda p: collections.Counter(
        x.verifier for x in p) == {"exact": 1520, "choice": 500},
    "quixbugs": lambda p: {
        x.metadata["task_id"]: x.reference["tolerance"]
        for x in p if "tolerance" in x.reference} == {"sqrt": 0.01},
    "code_contests": lambda p: sum(
        len(x.reference["inputs"]) for x in p) == 1628,
    "ifeval": lambda p: sum(len(x.reference["ids"]) for x in p) == 834,
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_data(name, tmp_path):
  parent = shared.folder("")
  want, malformed = COUNTS[name]
  found = {split: list(load.load(name, parent, split)) for split in want}
  assert {split: len(prompts) for split, prompts in found.items()} == want
  every = sum(found.values(), [])
  assert len({p.id for p in every}) == len(every)
  assert all(0 <= p.id < 2**31 for p in every)
  assert {(p.domain, p.source) for p in every} == {(load.SOURCES[name], name)}
  assert MORE.get(name, bool)(every)
  (path,) = (tmp_path / "cache").rglob("skipped.json")
  assert len(json.loads(path.read_text())) == malformed


def test_few_malformed_rows_are_skipped_and_reported(tmp_path, caplog):
  lines = [_row(i) for i in range(200)]
  lines[6] = "{broken"
  folder = _write(tmp_path / "gsm8k", lines)
  with caplog.at_level("WARNING"):
    train = load.load("gsm8k", folder, "train")
  assert caplog.text.count("train.jsonl:7: not JSON") == 1
  assert "gsm8k: skipped 1 malformed" in caplog.text
  (skipped,) = (tmp_path / "cache").rglob("skipped.json")
  assert json.loads(skipped.read_text()) == [
      f"{folder / 'train.jsonl'}:7: not JSON (column 2: Expecting property name"
      " enclosed in double quotes)"]
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


def test_a_split_without_rows_is_an_error(tmp_path):
  folder = _write(tmp_path / "gsm8k", [_row(i) for i in range(31)])
  with pytest.raises(ValueError, match="in split 'validation' of gsm8k; give"):
    load.load("gsm8k", folder, "train")


def test_folders_splits_and_changed_files(tmp_path):
  folder = _write(tmp_path / "gsm8k", [_row(i) for i in range(40)])
  test = load.load("gsm8k", folder, "test")
  assert len(test) == 3
  assert list(load.load("gsm8k", tmp_path, "test")) == list(test)
  longer = folder.rename(tmp_path / "gsm8k_mine")
  assert list(load.load("gsm8k", tmp_path, "test")) == list(test)
  _write(longer, [_row(i) for i in range(40)], test=5)
  assert len(load.load("gsm8k", tmp_path, "test")) == 5
  (longer / "train.jsonl").unlink()
  with pytest.raises(ValueError, match="no split 'train'; it has test in"):
    load.load("gsm8k", tmp_path, "train")


@pytest.mark.parametrize("split,message", [
    ("test[:", "is not a split or a slice of one; write train, test.:100."),
    ("test[1]", "is not a split"), ("test[a:b]", "is not a split"),
    ("test[:2] ", "is not a split"), ("test[:0]", "has no prompts; there are"),
    ("test[2:1]", "has no prompts"), ("test[5:9]", "has no prompts; .* 3 in t"),
    ("test[:10%]", "has no prompts")])
def test_slices_that_are_none(tmp_path, split, message):
  folder = _write(tmp_path / "gsm8k", [_row(i) for i in range(40)])
  with pytest.raises(ValueError, match=f"of gsm8k {message}") as caught:
    load.load("gsm8k", folder, split)
  assert str(caught.value).startswith(f"{split!r} of gsm8k")
  for good, count in (("test[1:]", 2), ("test[-2:]", 2), ("test[:99]", 3),
                      ("test[:]", 3), ("test[:1]+test[2:]", 2)):
    assert len(load.load("gsm8k", folder, good)) == count


@pytest.mark.parametrize("domain", record.DOMAINS)
def test_own_prompts_come_back_as_they_were(domain, tmp_path):
  rows = [{
      "id": 7 * i, "domain": each, "source": "mine", "language": "zh",
      "messages": [{"role": "system", "content": "Be brief."},
                   {"role": "user", "content": f"谁? {i}"}],
      "reference": {"answer": [1, 2.5, None, "x"]}, "verifier": "mine",
      "metadata": {"level": i}} for i, each in enumerate(record.DOMAINS * 2)]
  (tmp_path / "dev.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows))
  every = load.load("prompts", tmp_path, "dev")
  assert sorted(map(record.to_json, every), key=lambda row: row["id"]) == rows
  assert load.SOURCES[f"{domain}/prompts"] == domain
  mine = load.load(f"{domain}/prompts", tmp_path, "dev")
  assert sorted(p.id for p in mine) == [
      row["id"] for row in rows if row["domain"] == domain]
  assert {p.domain for p in mine} == {domain}


_CHILD = """
import sys
from r1jax.data.sources import load
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


@pytest.mark.parametrize("name", ["units", "knights", "functions"])
def test_generated_prompts(name):
  prompts = list(load.load(name, None, "validation"))
  assert len({p.id for p in prompts}) == len(prompts) > 100
  assert min(p.id for p in prompts) == 1_000_000
  assert {(p.domain, p.source) for p in prompts} == {(load.SOURCES[name], name)}


@pytest.mark.parametrize("name, hint", [
    ("rows.jsonl", "own prompts give --data=prompts --data_dir=DIR"),
    ("gsm8", "did you mean gsm8k?"), ("zzzz", "is unknown; choose from arith")])
def test_an_unknown_name_is_told_what_is_near(name, hint):
  with pytest.raises(ValueError) as error:
    load.load(name, None, "train")
  assert hint in str(error.value)
