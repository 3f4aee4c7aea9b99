"""The grid of worked pages and format weights, at the size of a test."""

import contextlib
import dataclasses
import json
import types

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.benchmarks import emergence
from experiments.benchmarks.emergence import Cell
from r1jax.data.sources import corpus
from r1jax.models.compute import Compute
from r1jax.report import writer
from tests.stages import cases

CONFIG = cases.config(
    steps=1, questions=4, row_length=96, max_new_tokens=(8,), eval_every=1)
CELL = Cell(seed=3, worked=0.1, weight=0.2)


def test_rarer_worked_pages_make_room_for_guesses():
  assert emergence.mixture(corpus.DEFAULT.stepped) == corpus.DEFAULT
  rare = emergence.mixture(0.06)
  names = "tagged", "bare", "stepped", "spoiled", "fragment"
  assert [getattr(rare, name) for name in names] == [
      0.50, 0.26, 0.06, 0.04, 0.14]
  with pytest.raises(ValueError, match="shares must sum to 1"):
    emergence.mixture(0.9)


def test_seeds_vary_slowest():
  cells = emergence.grid([0.1, 0.06], [1.0, 0.2], range(2))
  assert len(set(cells)) == 8
  assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
  assert len({cell.folder(emergence.epath.Path("x")) for cell in cells}) == 8


def test_the_grid_trains_as_the_quickstart_does():
  mine = emergence.config(2, 80)
  theirs = emergence.zero.config(2, 80)
  assert mine == dataclasses.replace(theirs, eval_every=80)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  top = emergence.epath.Path(tmp_path_factory.mktemp("emergence"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(emergence.judging, "judge", judge)
    assert emergence.train(
        CELL, CONFIG, cases.policy(cases.DENSE), cases.tokenizer(),
        CELL.folder(top), None, "validation[:2]")
  return top


@contextlib.contextmanager
def judge(tokenizer, template, rewards):
  """Without the child processes of the rules; the weights are the real ones."""
  assert (tokenizer, template) == (cases.tokenizer(), CONFIG.template)
  yield cases.judge()._replace(rewards=rewards.resolve())


def test_a_run_says_what_became_of_it(trained):
  folder = CELL.folder(trained)
  found = emergence.result(CELL, folder)
  rows = writer.read(folder)
  assert [row["step"] for row in rows] == [0, 1]
  assert found["base_accuracy"] == rows[0]["eval/pass1"]
  assert (found["accuracy"], found["format"], found["length"]) == tuple(
      rows[1][f"eval/{name}"] for name in ("pass1", "format", "length_mean"))
  assert found["curve"] == [{
      "step": 1, "accuracy": rows[1]["reward/accuracy"],
      "format": rows[1]["reward/format"],
      "length": rows[1]["rollout/length_mean"]}]
  saved = json.loads((folder / "config.json").read_text())["config"]
  assert saved["rewards"]["weights"] == "format:0.2"


def test_the_weight_reaches_the_reward(trained):
  row = writer.read(CELL.folder(trained))[1]
  assert row["reward/combined"] == pytest.approx(
      row["reward/accuracy"] + 0.2 * row["reward/format"])


def test_finished_runs_are_read_back_others_are_absent(trained):
  cells = [CELL, CELL._replace(weight=1.0)]
  found = list(emergence.finished(cells, trained, steps=1))
  assert [row["format_weight"] for row in found] == [0.2]
  assert not list(emergence.finished(cells, trained, steps=2))
  table = emergence.write(found, trained)
  assert json.loads((trained / "emergence.json").read_text()) == found
  assert len((trained / "emergence.png").read_bytes()) > 5000
  assert len(table.splitlines()) == 3


def test_the_base_itself_gets_no_more_pages(tmp_path, monkeypatch):
  monkeypatch.setattr(emergence.common, "INIT", types.SimpleNamespace(
      value="orbax:elsewhere"))
  assert emergence.init_of(corpus.DEFAULT.stepped, tmp_path, emergence.MORE,
                           None) == "orbax:elsewhere"
  assert not list(tmp_path.iterdir())


def test_the_flags_of_more_pages(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(emergence, "init_of", lambda *args: asked.append(args[2]))
  with flagsaver.flagsaver():
    flags.FLAGS(["emergence", f"--workdir={tmp_path}", "--pretrain.seed=5"])
    try:
      emergence.main()
    finally:
      flags.FLAGS.unparse_flags()
  assert asked == [dataclasses.replace(emergence.MORE, seed=5)]


def test_another_base_gets_more_pages_once(tmp_path, monkeypatch):
  top = emergence.epath.Path(tmp_path)
  seen = []

  def run(cfg, initial, tokenizer, text_at, workdir, *, mesh, settings):
    first = initial.take()
    seen.append(settings["corpus"]["stepped"])
    assert text_at(5) == corpus.document(
        cfg.seed, 5, emergence.mixture(0.06))
    return types.SimpleNamespace(step=cfg.steps, params=first.params,
                                 router_bias_LE=first.router_bias_LE)

  monkeypatch.setattr(emergence.pretrain, "run", run)
  monkeypatch.setattr(emergence.common, "INIT", types.SimpleNamespace(
      value="base"))
  monkeypatch.setattr(emergence.common, "policy", lambda seed, mesh: (
      cases.policy(cases.DENSE), cases.tokenizer()))
  for _ in range(2):
    init = emergence.init_of(0.06, top, emergence.MORE, None)
    assert init == f"file:{top / 'worked_0.06/base.safetensors'}"
  assert seen == [0.06]
  found = emergence.weights.load(init, Compute(), jax.random.key(0))
  assert found.model.cfg == cases.DENSE
