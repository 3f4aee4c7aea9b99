"""What makes prepared data stale: everything that shapes a prompt."""

import functools

import pytest

from r1jax.data.sources import load
from r1jax.data.sources.builders import shaping


@pytest.fixture
def package(tmp_path, monkeypatch):
  """r1jax of five files, one of which nothing imports."""
  files = {
      "__init__": "", "reader": "from r1jax import wording\nimport numpy\n",
      "wording": "def ask():\n  from r1jax.deep.rules import rule\n",
      "deep/__init__": "", "deep/rules": "def rule(): pass\n", "other": ""}
  for name, text in files.items():
    path = tmp_path / "r1jax" / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  monkeypatch.setattr(shaping, "_TOP", tmp_path)
  return tmp_path / "r1jax"


def found():
  return shaping.digest.__wrapped__(("r1jax.reader",))


@pytest.mark.parametrize("name,counts", [
    ("reader", True), ("wording", True), ("deep/rules", True),
    ("other", False)])
def test_every_file_that_is_imported_counts(package, name, counts):
  before = found()
  assert found() == before
  path = package / f"{name}.py"
  path.write_text(path.read_text() + "# edited\n")
  assert (found() != before) == counts


def test_the_version_of_another_package_counts(package, monkeypatch):
  before = found()
  monkeypatch.setattr(shaping.importlib.metadata, "version", lambda name: "9")
  assert found() != before


def test_every_source_names_its_code():
  """Its reader or generator, the record and the wordings are among it."""
  for cls in load._BUILDERS.values():
    for source in cls.BUILDER_CONFIGS:
      assert source.code()
  read = set()

  def file(name, real=shaping._file):
    path = real(name)
    read.update([name] if path else [])
    return path

  source = load._BUILDERS["stem"].builder_configs["mmlu_stem"]
  shaping.digest.cache_clear()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shaping, "_file", file)
    source.code()
  assert {"r1jax.data.sources.builders.readers_choice",
          "r1jax.data.sources.builders.wording",
          "r1jax.data.sources.builders.record", "r1jax.core.prompt"} <= read
  assert isinstance(load._BUILDERS["math"].builder_configs["prompts"].reader,
                    functools.partial)


def test_another_reader_prepares_anew(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  (tmp_path / "train.jsonl").write_text(
      '{"question": "Q?", "domain": "math", "source": "s", "reference": "1",'
      ' "verifier": "math"}\n')
  (tmp_path / "validation.jsonl").write_text(
      (tmp_path / "train.jsonl").read_text() * 8)
  prompts = load.load("prompts", tmp_path, "validation[:64]")
  assert len(prompts) == 8
  top = tmp_path / "cache/r1jax/tfds"
  (first,) = top.iterdir()
  load.load("prompts", tmp_path, "train")
  assert list(top.iterdir()) == [first]
  monkeypatch.setattr(type(load._BUILDERS["mixed"].builder_configs["prompts"]),
                      "code", lambda self: "another wording")
  load.load("prompts", tmp_path, "train")
  assert len(list(top.iterdir())) == 2
