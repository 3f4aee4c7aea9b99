"""The regressions of AlpacaEval, Arena-Hard, Codeforces, to references."""

import numpy as np
import pytest
from scipy import stats

from r1jax.evals.benchmarks import (
  alpaca_eval,
  arena_hard,
  codeforces,
  logistic,
)
from tests.reference import judged as reference

# Both minimisers stop at gradients of 1e-9 or so.
F64 = dict(rtol=1e-5, atol=1e-6)


@pytest.fixture
def strengths(monkeypatch):
  """Few, so that the reference's slow minimiser is asked less."""
  monkeypatch.setattr(alpaca_eval, "STRENGTHS", (0.05, 1.0, 20.0))


def data(seed=0, count=40):
  rng = np.random.default_rng(seed)
  lead = rng.normal(80, 300, count).round()
  hard = rng.normal(size=count)
  z = 0.4 + 1.1 * np.tanh(lead / 300) + 0.5 * hard
  wins = rng.binomial(4, logistic.sigmoid(z)) / 4
  return wins, lead, hard


@pytest.mark.parametrize("l1,l2", [(0.0, 0.1), (3.0, 0.0), (1.5, 0.5)])
def test_logistic_regression_on_shares(l1, l2):
  wins, lead, hard = data()
  x = np.stack([np.ones(len(wins)), np.tanh(lead / 300), hard], 1)
  w = np.linspace(0.5, 2, len(wins))
  got = logistic.fit(x, wins, w, l1=l1, l2=l2)
  want = reference.logistic(x, wins, w, l1=l1, l2=l2)
  np.testing.assert_allclose(got, want, **F64)
  # Each term is seen.
  for other in (dict(l1=l1 + 1, l2=l2), dict(l1=l1, l2=l2 + 1)):
    assert np.abs(logistic.fit(x, wins, w, **other) - want).max() > 1e-3
  assert np.abs(logistic.fit(x, wins, l1=l1, l2=l2) - want).max() > 1e-3


def test_a_strong_l1_gives_exact_zeros_and_separable_data_stay_finite():
  wins, lead, _ = data()
  x = np.stack([np.ones(len(wins)), np.tanh(lead / 300)], 1)
  assert logistic.fit(x, wins, l1=100.0).tolist() == [0, 0]
  won = logistic.fit(np.ones((9, 1)), np.ones(9), l2=1e-6)
  assert 8 < won[0] < 20


@pytest.mark.parametrize("known", [True, False])
def test_length_controlled_win_rate(known, strengths):
  wins, lead, hard = data()
  got, b = alpaca_eval.controlled(wins, lead, hard if known else None)
  rates = [reference.length_controlled(
      wins, lead, strength, hard if known else None)
           for strength in alpaca_eval.STRENGTHS]
  assert np.abs(np.array(rates) - got).min() < 1e-6
  plain = wins.mean()
  # Longer answers won more often and were longer on average.
  assert b[1] > 0 and got < plain - 0.02
  assert abs(reference.length_controlled(
      wins, lead, 20.0, hard if known else None, tanh=False) - got) > 1e-4


def test_the_strength_is_the_best_held_out(strengths):
  wins, lead, _ = data()
  spread = np.std(lead, ddof=1)
  x = np.stack([np.ones(len(wins)), np.tanh(lead / spread)], 1)
  losses = []
  for strength in alpaca_eval.STRENGTHS:
    total = []
    for fold in range(5):
      held = [i for i in range(len(wins)) if i % 5 == fold]
      rest = [i for i in range(len(wins)) if i % 5 != fold]
      b = reference.logistic(x[rest], wins[rest], l1=1 / strength)
      total.append(np.mean([
          np.log1p(np.exp(x[i] @ b)) - wins[i] * (x[i] @ b) for i in held]))
    losses.append(np.mean(total))
  best = alpaca_eval.STRENGTHS[int(np.argmin(losses))]
  got, _ = alpaca_eval.controlled(wins, lead)
  np.testing.assert_allclose(
      got, reference.length_controlled(wins, lead, best), **F64)


def row(wins, answer="a b", baseline="a b", votes=(0, 0), **more):
  return {"id": 1, "level": None, "valid": [True] * len(wins),
          "parts": {"accuracy": list(wins)}, "metadata": {},
          "reasons": [{}] * len(wins), "lengths": [1] * len(wins),
          "pairs": [{"answer": answer, "baseline": baseline,
                     "votes": list(votes)}] * len(wins), **more}


def test_alpaca_eval_reports_both_rates_and_what_had_no_verdict():
  wins, lead, _ = data()
  rows = [row([w], "x" * int(1000 + v), "x" * 1000)
          for w, v in zip(wins, lead)]
  rows.append(row([0.0], valid=[False]))
  controlled, plain, missing, size = alpaca_eval.numbers(rows)
  assert controlled.value == pytest.approx(
      alpaca_eval.controlled(wins, lead)[0])
  assert controlled.low < controlled.value < controlled.high
  assert plain.value == pytest.approx(wins.mean())
  assert missing.value == pytest.approx(1 / 41)
  assert size.value == pytest.approx(1000 + lead.mean())
  few = alpaca_eval.numbers(rows[:3])
  assert few[0].value is None and "too few" in few[0].note


TEXT = ("# One\n\n- a **b** c\n- d\n1. e\n\n```\n# not one\n- nor this **x**\n"
        "```\nf __g__ h")


def test_style_counts_outside_code():
  words, headers, lists, bold = arena_hard.style(TEXT)
  assert (headers, lists, bold) == (1, 3, 2) and words == len(TEXT.split())


def test_games_of_a_question():
  long = row([1.0], "a b c d", "a b", votes=(2, -1))
  outcomes, features = arena_hard.games(long)
  assert outcomes.tolist() == [1, 1, 1, 0]
  np.testing.assert_allclose(features, [[2 / 6, 0, 0, 0]] * 4)
  bold = row([1.0], "**a** b", "a b", votes=(0, None))
  outcomes, features = arena_hard.games(bold)
  assert outcomes.tolist() == [0.5]
  np.testing.assert_allclose(features, [[0, 0, 0, 0.5 / 1.5]])
  assert len(arena_hard.games(row([1.0], valid=[False]))[0]) == 0


def test_style_controlled_win_rate():
  rng = np.random.default_rng(3)
  features = rng.normal(0.2, 1, (80, 4)) * [0.3, 0.02, 0.1, 0.05]
  z = 0.3 + features @ [4.0, 0, 2.0, 0]
  outcomes = rng.binomial(2, logistic.sigmoid(z)) / 2
  got = arena_hard.win_rate(outcomes, features)
  np.testing.assert_allclose(
      got, reference.style_controlled(outcomes, features), **F64)
  assert abs(got - outcomes.mean()) > 1e-3  # style is seen
  # A style that all games share says nothing.
  flat = np.concatenate([features[:, :3], np.ones((80, 1))], 1)
  same = arena_hard.win_rate(outcomes, flat)
  np.testing.assert_allclose(same, reference.style_controlled(
      outcomes, features[:, :3]), **F64)


def test_arena_hard_wins_everything_or_has_no_verdicts():
  won = [row([1.0], f"a {'b ' * n}", "a b c", votes=(2, 2)) for n in range(9)]
  controlled, plain, *_ = arena_hard.numbers(won)
  assert plain.value == 1 and controlled.value > 0.99
  none = arena_hard.numbers([row([0.0], valid=[False])])
  assert none[0].value is None and none[2].value == 1


def test_codeforces_rating():
  rng = np.random.default_rng(5)
  ratings = rng.integers(8, 30, 60) * 100
  chances = 1 / (1 + 10**((ratings - 1700) / 400))
  solved = rng.binomial(16, chances) / 16
  value, low, high, note = codeforces.rating(solved, ratings)
  want, error = reference.elo(solved.tolist(), ratings.tolist())
  assert value == pytest.approx(want, abs=1e-3) and not note
  # Degrees of freedom: problems less one.
  t = stats.t.ppf(0.975, 59) * (60 / 59)**0.5
  assert high - value == pytest.approx(t * error, rel=1e-5)
  assert value - low == pytest.approx(high - value)
  assert low < 1700 < high
  # Harder problems solved as often mean a higher rating.
  assert codeforces.rating(solved, ratings + 200)[0] == pytest.approx(
      value + 200, abs=1e-3)


@pytest.mark.parametrize("solved,bound,word", [
    ([0.0, 0.0], 0, "at most this"), ([1.0, 1.0], 2700, "at least this")])
def test_all_or_nothing_is_a_bound(solved, bound, word):
  assert codeforces.rating(solved, [800, 1900]) == (bound, None, None, word)


def test_percentiles_are_the_papers():
  def at(rating):
    return codeforces.percentile(codeforces.Number("rating", rating))

  for rating, share in codeforces.PUBLISHED:
    assert at(float(rating)).value == pytest.approx(share / 100)
  assert at(1289.0).value == pytest.approx((58.7 + 80.4) / 200)
  assert at(900.0).value is None and "1134 to 2061" in at(900.0).note
