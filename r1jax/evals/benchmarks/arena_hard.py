"""Arena-Hard: Bradley-Terry against a baseline, with style control.

As lmarena/arena-hard-auto@196f6b8: each of the two orders is a game; "much
better" counts as three games, a tie as half a win; the win rate is sigma(b) of

  logit P(model wins a game) = b + s · z

where z are style differences between the two answers, standardised over games:
(len_m - len_b) / (len_m + len_b), and for the numbers per word of headers, list
items and bold parts (m - b) / (m + b + 1). Departures: lengths are words, not
GPT-4o's tokens; style is fitted on this model's games alone, not on a
leaderboard's; the interval is the 95 % bootstrap over questions, not the 5th to
95th percentile over games.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from r1jax.evals.benchmarks import logistic, statistic
from r1jax.evals.benchmarks.benchmark import PAIRS, Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row

STRONG = 3  # games that a "much better" counts as
_RESAMPLES = 100
_RIDGE = 1e-6  # keeps b finite for a model that wins every game

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_LIST = re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


def numbers(rows: Sequence[Row]) -> list[Number]:
  """Win rates with and without style control, missing verdicts, mean words."""
  by_question = [games(row) for row in rows]
  played = [part for part in by_question if len(part[0])]
  if not played:
    none = Number("win rate, style control", None, note="no verdicts")
    return [none, none._replace(name="win rate"), statistic.missing(rows)]
  words = [style(pair["answer"])[0] for row in rows for pair in row["pairs"]]
  return [
      _interval("win rate, style control", played, _controlled),
      _interval("win rate", played, _plain), statistic.missing(rows),
      Number("words", float(np.mean(words)), share=False, count=len(rows))]


def games(row: Row) -> tuple[np.ndarray, np.ndarray]:
  """(outcomes [games] in {0, 0.5, 1}, style differences [games, 4])."""
  outcomes, features = [], []
  for pair, valid in zip(row["pairs"], row["valid"], strict=True):
    if not valid:
      continue
    difference = _difference(style(pair["answer"]), style(pair["baseline"]))
    for vote in pair["votes"]:
      if vote is not None:
        times = STRONG if abs(vote) == 2 else 1
        outcomes += [0.5 + 0.5 * np.sign(vote)] * times
        features += [difference] * times
  return np.array(outcomes), np.array(features).reshape(-1, 4)


def style(text: str) -> np.ndarray:
  """[4]: words, headers, list items, bold parts; code blocks hold no Markdown.
  """
  outside = _CODE.sub("", text)
  return np.array([len(text.split()), *(
      len(pattern.findall(outside)) for pattern in (_HEADER, _LIST, _BOLD))],
      np.float64)


def win_rate(outcomes: np.ndarray, features: np.ndarray) -> float:
  """sigma(b) of the module's model; constant features are left out.

  Args:
    outcomes: [games], in {0, 0.5, 1}.
    features: [games, 4], style differences before standardisation.
  """
  spread = features.std(0, ddof=1) if len(features) > 1 else np.zeros(4)
  there = spread > 0
  z = (features[:, there] - features[:, there].mean(0)) / spread[there]
  b_F = logistic.fit(
      np.concatenate([np.ones((len(z), 1)), z], 1), outcomes, l2=_RIDGE)
  return float(logistic.sigmoid(b_F[0]))


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  total = a[0] + b[0]
  density_a, density_b = (x[1:] / x[0] if x[0] else 0 * x[1:] for x in (a, b))
  return np.array([(a[0] - b[0]) / total if total else 0.0,
                   *(density_a - density_b) / (density_a + density_b + 1)])


def _controlled(played) -> float:
  return win_rate(*(np.concatenate(parts) for parts in zip(*played)))


def _plain(played) -> float:
  return float(np.concatenate([outcomes for outcomes, _ in played]).mean())


def _interval(name: str, played, figure) -> Number:
  generator = np.random.default_rng(0)
  drawn = [figure([played[i] for i in generator.integers(
      len(played), size=len(played))]) for _ in range(_RESAMPLES)]
  low, high = np.percentile(drawn, (2.5, 97.5))
  return Number(name, figure(played), float(low), float(high), len(played))


ALL = (
    Benchmark(
        name="arena_hard", title="Arena-Hard (style control)",
        source="arena_hard", samples=1, scorer=PAIRS, numbers=numbers,
        publisher="https://github.com/lmarena/arena-hard-auto (question.jsonl"
        " and, under model_answer/, the baseline's answers)", paper=True),
    # Answers to first turns are compared like Arena-Hard's.
    Benchmark(
        name="mt_bench", title="MT-Bench, first turns", source="mt_bench",
        samples=1, scorer=PAIRS, numbers=numbers,
        publisher="https://github.com/lm-sys/FastChat (fastchat/llm_judge/data;"
        " it has no baseline: give --baseline)"),
)
