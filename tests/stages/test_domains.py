"""Rewards by domain: their means, their table, their figure."""

import dataclasses

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.core.types import Scored
from r1jax.report import figures
from r1jax.stages import step_metrics
from r1jax.stages.reports import reporting


def _scored(domains, parts, rewards_QG, valid_QG):
  q, g = np.shape(rewards_QG)
  return Scored(
      rollout=None, texts=(("",) * g,) * q, answers=((None,) * g,) * q,
      reasons=(({},) * g,) * q, measures=(({},) * g,) * q,
      prompts=tuple(
          Prompt(id=i, domain=name, source="s", messages=ask("?"),
                 reference="", verifier="") for i, name in enumerate(domains)),
      parts={k: np.array(v, np.float32) for k, v in parts.items()},
      rewards_QG=np.array(rewards_QG, np.float32),
      valid_QG=np.array(valid_QG, bool))


def means(*scored):
  return step_metrics.means([step_metrics.reward_sums(part) for part in scored])


def test_means_count_what_was_judged():
  nan = np.nan
  scored = _scored(
      ["math", "general", "math"],
      {"accuracy": [[1, 0], [nan, nan], [1, 0]],
       "format": [[1, 1], [0, 1], [0, 0]]},
      [[2, 1], [0, 1], [1, 9]],
      [[True, True], [True, True], [True, False]])
  assert means(scored) == pytest.approx({
      "reward/accuracy": 2 / 3, "reward/format": 3 / 5,
      "reward/combined": 1.0, "domain/general/format": 0.5,
      "domain/general/combined": 0.5, "domain/math/accuracy": 2 / 3,
      "domain/math/format": 2 / 3, "domain/math/combined": 4 / 3})


def test_one_domain_is_not_told_apart():
  scored = _scored(["math"], {"format": [[1, 0]]}, [[1, 0]], [[True, True]])
  assert means(scored) == {
      "reward/format": 0.5, "reward/combined": 0.5}


def test_measures_are_averaged_where_there_are_any():
  scored = _scored(["code", "math"], {}, [[0, 0], [0, 0]],
                   [[True, True], [False, True]])
  passed = "accuracy/passed"
  scored = dataclasses.replace(scored, measures=(
      ({passed: 2.0}, {passed: 4.0, "language/words": 9.0}),
      ({passed: 99.0}, {})))
  assert step_metrics.means([step_metrics.measure_sums(scored)]) == {
      "measure/accuracy/passed": 3.0, "measure/language/words": 9.0}


def test_processes_add_up():
  """A rule, a domain and a sample that only one of two processes has."""
  nan = np.nan
  first = _scored(["math"], {"format": [[1, 0]], "accuracy": [[nan, nan]]},
                  [[1, 0]], [[True, False]])
  second = _scored(["code"], {"format": [[1, 1]], "accuracy": [[1, 0]]},
                   [[2, 1]], [[True, True]])
  both = _scored(["math", "code"],
                 {"format": [[1, 0], [1, 1]], "accuracy": [[nan, nan], [1, 0]]},
                 [[1, 0], [2, 1]], [[True, False], [True, True]])
  assert means(first, second) == means(both)
  assert means(both)["reward/format"] == 1.0
  assert means(both)["domain/code/accuracy"] == 0.5
  assert "domain/math/format" not in means(first)


def test_nothing_was_judged():
  scored = _scored(["math"], {"format": [[0, 0]]}, [[0, 0]], [[False, False]])
  assert means(scored) == {}


ROWS = [{"step": i, "reward/combined": 0.5, "domain/code/combined": i / 20,
         "domain/math/accuracy": 1.0 if i > 17 else 0.0,
         "domain/math/combined": 1.0} for i in range(20)]


def test_the_table_has_the_first_and_the_last_tenth():
  assert reporting.domain_cells(ROWS) == (
      ["domain", "accuracy, early", "accuracy, late", "combined, early",
       "combined, late"],
      [["code", "-", "-", "0.03", "0.93"],
       ["math", "0.00", "1.00", "1.00", "1.00"]])
  assert reporting.domain_cells([{"step": 1}]) == (["domain"], [])


def test_the_figure(tmp_path):
  figures.by_domain(ROWS, tmp_path / "domains.png")
  assert (tmp_path / "domains.png").read_bytes()[1:4] == b"PNG"
