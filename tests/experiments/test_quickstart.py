"""The main job on a tiny policy, and what the shipped base is held to."""

import contextlib
import dataclasses
import json
import shutil
import types

import pytest

from experiments import common, quickstart
from r1jax.core import config as config_lib
from r1jax.data.sources import corpus
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.report import tables
from r1jax.stages import evaluating, judging, tasks, weights, zero
from r1jax.stages.reports import reporting
from tests.stages import cases

# The bar on all 256 test problems; on 64 its standard error is 0.05.
GUESSES = 0.25
SMALL = dict(max_rows=8, max_new_tokens=8)
DECODINGS = {
    way: (dataclasses.replace(
        evals, samples=min(evals.samples, 3), **SMALL), suffix)
    for way, (evals, suffix) in zero.DECODINGS.items()}
CONFIG = cases.config(
    steps=1, questions=4, row_length=96, max_new_tokens=(8,))


def run(folder):
  """Without the child processes of the rules."""
  judged = contextlib.nullcontext(cases.judge())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(judging, "judge", lambda tokenizer, template: judged)
    return zero.run(
        CONFIG, DECODINGS, cases.policy(cases.DENSE), cases.tokenizer(),
        folder, test="test[:6]", held_out="validation[:2]")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  folder = tmp_path_factory.mktemp("quickstart")
  return folder, run(folder)


def test_both_models_are_evaluated_in_three_ways(ran):
  folder, results = ran
  assert list(results) == ["base", "R1-Zero"]
  for ways, name in ((results["base"], "base"), (results["R1-Zero"], "zero")):
    assert list(ways) == ["T = 1", "T = 0.6, top-p 0.95", "greedy"]
    assert [r.n_samples for r in ways.values()] == [3, 3, 1]
    assert {r.n_prompts for r in ways.values()} == {6}
    for suffix in ("", "_t06", "_greedy"):
      assert (folder / f"{name}{suffix}.json").exists()
      assert (folder / f"{name}{suffix}.jsonl.gz").exists()


def test_the_command_from_its_flags_to_its_summary(
    ran, tmp_path, monkeypatch, capsys):
  """All but the hours: what `zero.run` would give lies there already."""
  given = {}

  def results(cfg, decodings, base, tokenizer, folder, mesh):
    given.update(steps=cfg.steps, folder=folder, model=base.model.cfg)
    shutil.copytree(ran[0], folder, dirs_exist_ok=True)
    return ran[1]

  monkeypatch.setattr(zero, "run", results)
  for flag, value in (("WORKDIR", str(tmp_path)), ("SEED", 3), ("STEPS", 7)):
    monkeypatch.setattr(quickstart, flag, types.SimpleNamespace(value=value))
  for flag, value in (("INIT", "base"), ("TOKENIZER", "")):
    monkeypatch.setattr(common, flag, types.SimpleNamespace(value=value))
  monkeypatch.setattr(common, "COMPUTE", types.SimpleNamespace(value=Compute))
  monkeypatch.setattr(common, "mesh", lambda: None)
  quickstart.main()
  assert given == {"steps": 7, "folder": tmp_path / "seed_3",
                   "model": presets.get("base-arith")}
  assert "report: " in capsys.readouterr().out
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["zero_pass1"] == ran[1]["R1-Zero"]["T = 1"].pass1
  quickstart.main()  # again: it is finished
  assert "This run is complete" in capsys.readouterr().out
  monkeypatch.setattr(
      common, "INIT", types.SimpleNamespace(value="base:world"))
  with pytest.raises(ValueError, match="init: 'base' -> 'base:world'"):
    quickstart.main()


def test_the_ways_are_the_papers_training_and_evaluation_and_greedy():
  found = [(e.temperature, e.top_p, e.samples)
           for e, _ in zero.DECODINGS.values()]
  assert found == [(1.0, 1.0, 16), (0.6, 0.95, 16), (0.0, 1.0, 1)]


def test_a_rerun_reads_what_is_there(ran, monkeypatch):
  folder, results = ran
  monkeypatch.setattr(evaluating, "evaluate", None)  # nothing samples
  # That a run which is done trains no more is tested with it.
  monkeypatch.setattr(zero.grpo, "run", lambda *args, **kwargs: None)
  assert run(folder) == results


def test_summary_and_table_say_all_three(ran, tmp_path, capsys):
  folder, results = ran
  results = {name: {way: dataclasses.replace(r, pass1=0.1 * i + 0.01 * j)
                    for j, (way, r) in enumerate(ways.items())}
             for i, (name, ways) in enumerate(results.items())}
  quickstart.finish(tmp_path, folder, results, 1.5)
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary == json.loads((folder / "summary.json").read_text())
  assert set(summary) == {
      "base_pass1", "base_maj16", "base_t06", "base_greedy", "base_length",
      "zero_pass1", "zero_maj16", "zero_t06", "zero_greedy", "zero_length",
      "zero_format", "minutes"}
  shown = [summary[f"{name}_{way}"] for name in ("base", "zero")
           for way in ("pass1", "t06", "greedy")]
  assert shown == pytest.approx([0.0, 0.01, 0.02, 0.1, 0.11, 0.12])
  lines = (folder / "table.txt").read_text().splitlines()
  assert lines == capsys.readouterr().out.splitlines()[1:9]
  assert "maj@3" in lines[0]  # greedy has no majority, and is no reason for "k"
  assert [line.split("  ")[0] for line in lines[2:]] == [
      f"{name}, {way}" for name in results for way in DECODINGS]
  assert [line.split("  ")[-1] == "-" or "-" in line.split()[-4:]
          for line in lines[2:]] == [False, False, True] * 2
  assert quickstart.complete(tmp_path, folder)


def test_the_report_draws_them(ran):
  folder, results = ran
  page = reporting.write(folder / "train", results).read_text()
  assert (folder / "train/figures/decodings.png").stat().st_size > 5000
  assert "Accuracy by decoding" in page
  for name in tables.comparison(reporting.all_cells(results)).splitlines()[2:]:
    assert name.split("  ")[0] in page


def test_the_base_was_made_from_the_default_corpus():
  path = weights.BASES[""].with_suffix(".json")
  made = json.loads(path.read_text())["made_by"]
  assert made["corpus"] == config_lib.to_dict(corpus.DEFAULT)


def test_the_base_guesses_greedily_too():
  """Its most likely page must not be a worked one."""
  base, tokenizer = weights.with_tokenizer("base")
  greedy = dataclasses.replace(zero.DECODINGS["greedy"][0],
                               max_new_tokens=48)
  with judging.judge(tokenizer, "r1-zero") as judge:
    found = evaluating.evaluate(
        greedy, evaluating.sampler(greedy, base.model, tokenizer), judge,
        base.params, base.router_bias_LE,
        tasks.joined(tasks.load("arith", "test[:64]")), progress=False)
  assert found.pass1 <= GUESSES
  assert found.mean_length < 24  # a worked answer has 40 and more
