"""AlpacaEval 2: win rate against a baseline, controlled for length.

The generalised linear model of Dubois et al. (arXiv:2404.04475):

  logit P = b0 + b1 tanh((len_model - len_base) / sd) + b2 difficulty

P is the probability that the model wins; lengths are in characters, sd is over
all questions, and the l1 weight is chosen by cross-validation with five folds
of questions. The length-controlled win rate is the mean of P with both lengths
equal. Departures: a preference is the judge's verdict over both orders (win 1,
tie 0.5), not token probabilities; without the publisher's table of difficulties
there is no b2; the publisher's two "gamed" baselines, which only regularise,
are not used; folds are question numbers modulo five.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r1jax.evals.benchmarks import logistic, statistic
from r1jax.evals.benchmarks.benchmark import PAIRS, Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row

FOLDS = 5
# Inverse l1 weights, the grid of scikit-learn's LogisticRegressionCV.
STRENGTHS = tuple(np.logspace(-4, 4, 10))
_RESAMPLES = 200


def numbers(rows: Sequence[Row]) -> list[Number]:
  """Length-controlled and plain win rate, missing verdicts, mean characters."""
  wins, lead, hard, sizes = [], [], [], []
  for row in rows:
    for pair, value, valid in zip(
        row["pairs"], row["parts"]["accuracy"], row["valid"], strict=True):
      if valid:
        wins.append(value)
        lead.append(len(pair["answer"]) - len(pair["baseline"]))
        hard.append(row["metadata"].get("difficulty"))
        sizes.append(len(pair["answer"]))
  plain = statistic.judged(rows)[0]._replace(name="win rate")
  found = [_controlled(wins, lead, hard, len(rows)), plain,
           statistic.missing(rows)]
  if sizes:
    found.append(Number("characters", float(np.mean(sizes)), share=False,
                        count=len(rows)))
  return found


def controlled(wins: Sequence[float], lead: Sequence[float],
               difficulty: Sequence[float] | None = None) -> tuple[
                   float, np.ndarray]:
  """(win rate at equal lengths, coefficients).

  Args:
    wins: preference for the model by question, in [0, 1].
    lead: characters of the model's answer minus those of the baseline's.
    difficulty: the publisher's difficulty of each question, if known.
  """
  x_QF, y_Q = _features(lead, difficulty), np.asarray(wins, np.float64)
  b_F = logistic.fit(x_QF, y_Q, l1=1 / _strength(x_QF, y_Q))
  return _rate(x_QF, b_F), b_F


def _controlled(wins, lead, hard, count: int) -> Number:
  name = "length-controlled win rate"
  if len(wins) < 2 * FOLDS:
    return Number(name, None, note=f"{len(wins)} verdicts are too few to"
                  " control for length")
  known = None if None in hard else hard
  x_QF, y_Q = _features(lead, known), np.asarray(wins, np.float64)
  l1 = 1 / _strength(x_QF, y_Q)
  value = _rate(x_QF, logistic.fit(x_QF, y_Q, l1=l1))
  generator = np.random.default_rng(0)
  drawn = []
  for _ in range(_RESAMPLES):
    at = generator.integers(len(y_Q), size=len(y_Q))
    drawn.append(_rate(x_QF[at], logistic.fit(x_QF[at], y_Q[at], l1=l1)))
  low, high = np.percentile(drawn, (2.5, 97.5))
  return Number(name, value, float(low), float(high), count)


def _features(lead, difficulty) -> np.ndarray:
  lead = np.asarray(lead, np.float64)
  spread = lead.std(ddof=1)
  columns = [np.ones(len(lead)), np.tanh(lead / spread) if spread else 0 * lead]
  if difficulty is not None:
    columns.append(np.asarray(difficulty, np.float64))
  return np.stack(columns, 1)


def _rate(x_QF: np.ndarray, b_F: np.ndarray) -> float:
  equal_QF = x_QF.copy()
  equal_QF[:, 1] = 0.0
  return float(logistic.sigmoid(equal_QF @ b_F).mean())


def _strength(x_QF: np.ndarray, y_Q: np.ndarray) -> float:
  """The inverse l1 weight with the least held-out loss; the first of ties."""
  fold_Q = np.arange(len(y_Q)) % FOLDS
  losses = []
  for strength in STRENGTHS:
    held = []
    for fold in range(FOLDS):
      out = fold_Q == fold
      b_F = logistic.fit(x_QF[~out], y_Q[~out], l1=1 / strength)
      held.append(logistic.loss(x_QF[out], y_Q[out], b_F))
    losses.append(float(np.mean(held)))
  return STRENGTHS[int(np.argmin(losses))]


ALL = (
    Benchmark(
        name="alpaca_eval", title="AlpacaEval 2 (length-controlled)",
        source="alpaca_eval", samples=1, scorer=PAIRS, numbers=numbers,
        publisher="https://huggingface.co/datasets/tatsu-lab/alpaca_eval"
        " (alpaca_eval_gpt4_baseline.json; instruction_difficulty.csv beside it"
        " if you like)", paper=True),
)
