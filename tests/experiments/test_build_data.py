"""build_data as users type it, on small files with planted rows."""

import json

import matplotlib.image
import pytest

from r1jax.core.prompt import ask
from r1jax.data.sources import load
from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds

HENS = ("A farmer has twelve hens and every hen lays three brown eggs before"
        " noon, so how many eggs are there?")
ROOF = ("Lena keeps 6 hives on the roof of the old library and each of them"
        " gives 14 jars of honey in a good spring, so how many jars is that?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """--data_dir with gsm8k, and own prompts of two domains."""
  root = tmp_path_factory.mktemp("data")
  gsm8k, own = root / "gsm8k", root / "prompts"
  gsm8k.mkdir()
  own.mkdir()

  def write(path, rows):
    path.write_text("".join(
        json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

  def row(question, answer):
    return {"question": question, "answer": f"So.\n#### {answer}"}

  train = [row(f"What is {i} plus {i}?", 2 * i) for i in range(130)]
  train[4] = row(f"Listen: {HENS[2:90]} in May?", 36)  # shared text
  train[5] = row(ROOF, 84)
  train[6] = row(ROOF.replace("Lena", "Mina"), 84)  # nearly the same
  train[7] = {"question": "No answer?"}
  write(gsm8k / "train.jsonl", train)
  write(gsm8k / "test.jsonl", [row(HENS, 36), row("Is it 5?", 5)])
  mine = [{"domain": "code", "source": "mine", "verifier": "code",
           "question": f"Write f so that f(x) is x + {i}.", "reference": {
               "kind": "asserts", "entry_point": "f", "setup": "",
               "test": f"assert f(0) == {i}"}} for i in range(9)]
  mine.append({"domain": "math", "source": "mine", "verifier": "math",
               "question": ROOF, "reference": "84"})  # a copy
  mine.append({"domain": "math", "source": "mine", "verifier": "math",
               "question": "五加五等于多少？", "reference": "10",
               "language": "zh"})
  write(own / "train.jsonl", mine)
  return root


def arguments(folder, out, **more):
  values = dict(sources="gsm8k,prompts", data_dir=folder,
                against="gsm8k@test", out=out) | more
  return [f"--{k}={v}" for k, v in values.items()]


def test_files_are_built_twice_alike(folder, cache, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
  first, again, second, other = calls(
      "experiments.build_data", arguments(folder, tmp_path / "a"),
      arguments(folder, tmp_path / "a"), arguments(folder, tmp_path / "b"),
      arguments(folder, tmp_path / "a", **{"same.similarity": 1.0}),
      XDG_CACHE_HOME=str(cache))
  text = succeeds(first)
  assert "1 share text with evaluations (gsm8k@test 1)" in text
  assert "wrote" in text and "languages" in text
  assert "gsm8k: 1 malformed rows were skipped" in text
  malformed = json.loads((tmp_path / "a/report.json").read_text())["malformed"]
  assert malformed["gsm8k"]["rows"] == 1
  assert "train.jsonl:8: " in malformed["gsm8k"]["examples"][0]
  assert "decontaminating" in first.err and "deduplicating" in first.err
  names = ["config.json", "report.json", "statistics.png", "statistics.txt",
           "train.jsonl"]
  assert sorted(p.name for p in (tmp_path / "a").iterdir()) == names
  succeeds(again)
  succeeds(second)
  for name in names:
    assert (tmp_path / "a" / name).read_bytes() == (
        tmp_path / "b" / name).read_bytes(), name
  fails(other, "was made with other settings", "same.similarity: 0.8 -> 1.0",
        "choose another --out")

  report = json.loads((tmp_path / "a/report.json").read_text())
  shared = report["shared_with_evaluations"]["gsm8k"]["by_evaluation"]
  assert shared["gsm8k@test"]["dropped"] == 1
  assert shared["gsm8k@test"]["examples"][0]["shared"].startswith("farmer has")
  duplicates = report["duplicates"]
  assert duplicates["gsm8k"]["near"]["dropped"] == 1
  assert duplicates["prompts"]["exact"]["dropped"] == 1
  assert report["kept"]["gsm8k"] == report["read"]["gsm8k"] - 2
  assert (report["read"]["prompts"], report["kept"]["prompts"]) == (11, 10)
  image = matplotlib.image.imread(tmp_path / "a/statistics.png")
  assert image.shape[1] > 1000
  assert "en 9" in (tmp_path / "a/statistics.txt").read_text()

  rows = [json.loads(line) for line in
          (tmp_path / "a/train.jsonl").read_text().splitlines()]
  assert len(rows) == sum(report["kept"].values())
  assert not any(HENS[2:60] in row["messages"][0]["content"] for row in rows)
  assert len({row["id"] for row in rows}) == len(rows)
  prompts = load.load("prompts", tmp_path / "a", "train")
  last = max(prompts, key=lambda p: p.id)
  assert last.id == 10_000_010 and last.language == "zh"
  assert last.messages == ask("五加五等于多少？") and last.source == "mine"


def test_bad_input(folder, cache, tmp_path):
  used = tmp_path / "used"
  used.mkdir()
  (used / "thesis.txt").write_text("mine")
  out = tmp_path / "out"
  bad = {
      "--sources=gsm8k,mbpp must be given": arguments(folder, out, sources=""),
      "--out=DIR must be given": arguments(folder, ""),
      "--against=NAME@SPLIT,... must be given": arguments(
          folder, out, against=""),
      "'gsm8k' is given twice": arguments(folder, out, sources="gsm8k,gsm8k"),
      "gsm8k@test is in --sources and in --against": arguments(
          folder, out, sources="gsm8k@test"),
      "--sources: 'gsm9k' is unknown": arguments(folder, out, sources="gsm9k"),
      "no split 'dev'": arguments(folder, out, split="dev"),
      "used is not empty and has no config.json": arguments(folder, used),
      "nothing is left of gsm8k@test[:1]": arguments(
          folder, out, sources="gsm8k@test[:1]", against="gsm8k@test"),
      "boilerplate=0.0 is a share, in (0, 1] (flags --shared.*)": arguments(
          folder, out, **{"shared.boilerplate": 0.0})}
  done = calls("experiments.build_data", *bad.values(),
               XDG_CACHE_HOME=str(cache))
  for call, message in zip(done, bad, strict=True):
    assert call.status and message in call.err, (message, call.err)
    assert "Traceback" not in call.err
  assert not out.exists()  # so that the next try may use it
  assert [p.name for p in used.iterdir()] == ["thesis.txt"]


def test_without_evaluations(folder, cache, tmp_path):
  call, = calls("experiments.build_data",
                arguments(folder, tmp_path / "a", against="none"),
                XDG_CACHE_HOME=str(cache))
  assert "0 share text" in succeeds(call)
  text = (tmp_path / "a/train.jsonl").read_text()
  assert HENS[2:60] in text
