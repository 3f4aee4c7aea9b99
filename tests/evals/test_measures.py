from __future__ import annotations

import collections
import itertools
import math

import numpy as np
import pytest

from r1jax.evals import curves, measures, samples
from r1jax.evals.measures import MEASURES
from tests.stages import folders

F64 = dict(rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  return folders.evaluation(
      tmp_path_factory.mktemp("eval"), reason=0.6, keep=0.7, refuse=0.4)


def loop(rows, wanted, number):
  """Means over samples of the mean over questions, of what is not None."""
  sums, counts = collections.Counter(), collections.Counter()
  for row in rows:
    if wanted(row) and (x := number(row)) is not None:
      sums[row["source"], row["question"]] += x
      counts[row["source"], row["question"]] += 1
  return {key: sums[key] / counts[key] for key in counts}


def about(source, language=None, **flags):
  def wanted(row):
    return (row["source"] == source and language in (None, row["language"])
            and all(row["measures"][f"accuracy/{k}"] == v
                    for k, v in flags.items()))
  return wanted


def accuracy(row):
  return row["parts"]["accuracy"]


def share_kept(row):
  """Words by hand: the thoughts of `folders` hold one language each."""
  latin = "we add" in row["completion"]
  return float(latin == (row["language"] == "en"))


def measured(name):
  return lambda row: row["measures"][f"accuracy/{name}"]


def safe(row):
  return 1 - row["measures"]["accuracy/unsafe"]


EXPECTED = {
    "reasoning": (about("sums"), accuracy),
    "reasoning_en": (about("sums", "en"), accuracy),
    "reasoning_zh": (about("sums", "zh"), accuracy),
    "language": (about("sums"), share_kept),
    "language_zh": (about("sums", "zh"), share_kept),
    "thought": (about("sums"), lambda row: 1.0),
    "format": (lambda row: True, lambda row: row["parts"]["format"]),
    "instructions": (about("requests"), lambda row: float(
        row["measures"]["accuracy/done"] == 1)),
    "utility": (about("requests"), accuracy),
    "safe": (about("safety", harmful=1), safe),
    "safe_plain": (about("safety", harmful=1, jailbreak=0), safe),
    "safe_jailbreak": (about("safety", harmful=1, jailbreak=1), safe),
    "refusal": (about("safety", harmful=0), measured("refused")),
    "refusal_plain": (
        about("safety", harmful=0, jailbreak=0), measured("refused")),
    "refusal_jailbreak": (
        about("safety", harmful=0, jailbreak=1), measured("refused")),
    "length": (about("sums"), lambda row: row["length"]),
    "length_requests": (about("requests"), lambda row: row["length"]),
    "reflective": (about("sums"),
                   lambda row: row["completion"].split().count("wait</think>")),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_measure_against_a_loop_over_the_rows(rows, name):
  got = MEASURES[name].values(samples.grouped(rows))
  expected = loop(rows, *EXPECTED[name])
  assert expected and set(got) == set(expected)
  for question in expected:
    np.testing.assert_allclose(got[question], expected[question], **F64)


def test_no_measure_is_another(rows):
  grouped = samples.grouped(rows)
  every = [MEASURES[name].values(grouped) for name in MEASURES]
  assert all(a != b for a, b in itertools.combinations(every, 2))


def test_consensus_by_counting_votes(rows):
  got = MEASURES["consensus_en"].values(samples.grouped(rows))
  assert len(got) == 6
  for (source, question), share in got.items():
    mine = [r for r in rows if (r["source"], r["question"]) == (
        source, question)]
    votes = collections.Counter(r["answer"] for r in mine)
    most = max(votes.values())
    winners = [a for a, n in votes.items() if n == most]
    assert math.isclose(share, winners.count("right") / len(winners))


def test_win_rate_of_every_pair(rows, tmp_path):
  others = folders.evaluation(tmp_path, seed=3, utility=0.9)
  ours, theirs = samples.grouped(rows), samples.grouped(others)
  got = measures.win_rate(ours, theirs)
  assert len(got) == 10
  for key, rate in got.items():
    a, b = ([accuracy(r) for r in part if (r["source"], r["question"]) == key]
            for part in (rows, others))
    wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b]
    assert math.isclose(rate, sum(wins) / len(wins))
    # What one wins the other loses.
    back = measures.win_rate(theirs, ours)[key]
    np.testing.assert_allclose(rate + back, 1, **F64)
  assert set(measures.win_rate(ours, ours).values()) == {0.5}
  assert not measures.win_rate(ours, {})
  assert list(measures.table(theirs, "Dev3"))[
      list(MEASURES).index("utility") + 1] == measures.WIN


def test_lengths_by_level(rows):
  levels = measures.by_level(samples.grouped(rows), measures.length)
  assert list(levels) == [1, 2, 3]
  for level, values in levels.items():
    expected = loop(rows, lambda r, level=level: r["level"] == level,
                    lambda r: r["length"])
    assert values == expected


def test_a_sample_without_verdict_is_wrong_and_measures_nothing(rows):
  broken = [row | {"valid": False} for row in rows]
  grouped = samples.grouped(broken)
  assert set(MEASURES["reasoning"].values(grouped).values()) == {0.0}
  for name in ("instructions", "utility", "safe", "refusal"):
    assert not MEASURES[name].values(grouped)


def test_thoughts_without_words_keep_no_language(rows):
  silent = [row | {"completion": "<think>1 + 1 = 2</think> 2"} for row in rows]
  grouped = samples.grouped(silent)
  assert not MEASURES["language"].values(grouped)
  assert set(MEASURES["thought"].values(grouped).values()) == {0.0}


def test_what_was_scored_as_language_counts(rows):
  scored = [row | {"parts": row["parts"] | {"language": 0.25},
                   "measures": row["measures"] | {"language/words": 4.0}}
            for row in rows]
  got = MEASURES["language"].values(samples.grouped(scored))
  assert set(got.values()) == {0.25}


def test_missing_and_old_files(tmp_path, rows):
  with pytest.raises(ValueError, match="generations.jsonl.gz does not exist"):
    samples.stored(tmp_path)
  with pytest.raises(ValueError, match="evaluate again"):
    samples.grouped([{k: v for k, v in rows[0].items() if k != "source"}])


def test_curves_of_a_run(tmp_path):
  folders.run(tmp_path, (0, 4), lambda step: {},
              reason=lambda share: 0.1 + 0.8 * share)
  got = curves.of_run(tmp_path, ("reasoning", "utility"))
  assert [row["step"] for row in got] == [0, 4]
  assert got[0]["reasoning_high"] < got[1]["reasoning_low"]
  stored = folders.rollouts.read(tmp_path, 4, "evaluations")
  np.testing.assert_allclose(
      got[1]["utility"],
      np.mean(list(loop(stored, about("requests"), accuracy).values())), **F64)
  assert not curves.of_run(tmp_path / "none", ("reasoning",))
