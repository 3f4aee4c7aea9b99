"""Rejection sampling: which sampled answers become supervised data.

DeepSeek-R1 samples several answers per question and keeps those that are right
and readable (arXiv:2501.12948 v2, B.3.2 and B.3.3). The paper does not say how
many it samples and how many it keeps per question.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.data.sources import filters
from r1jax.data.sources.filters import FilterConfig
from r1jax.report import tables

KEPT = "kept"
NO_RULE = "no rule, no judge"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectConfig:
  """Which answers are kept.

  Attributes:
    keep: the most answers kept per question, drawn among those that pass.
    min_rate, max_rate: bounds on the share of right answers among a question's
      valid ones, both included; a question outside them is too hard or too easy
      and none of its answers is kept (open-r1: above 0.1, up to 0.6 or 0.9).
    form: whether an answer must have the full format reward, where it is known.
    filters: when a thought is readable.
  """

  keep: int = 4
  min_rate: float = 0.0
  max_rate: float = 1.0
  form: bool = True
  filters: FilterConfig = FilterConfig()

  def __post_init__(self):
    check(self.keep > 0, f"keep={self.keep} must be at least 1")
    check(0 <= self.min_rate <= self.max_rate <= 1,
          f"min_rate={self.min_rate}, max_rate={self.max_rate}: give"
          " 0 <= min_rate <= max_rate <= 1")


class Sample(NamedTuple):
  """A sampled answer with its rewards.

  Attributes:
    text: the answer, with the beginning that the template wrote.
    accuracy: accuracy reward, 1 if right; None without a rule and a judge.
    format: format reward; None if it was not computed.
    valid: whether the rewards could be computed, as `types.Scored.valid_QG`.
    reason: explains the accuracy reward.
    truncated: whether the length limit ended it.
    tokens: number of tokens in question and answer.
  """

  text: str
  accuracy: float | None
  format: float | None
  valid: bool
  reason: str
  truncated: bool
  tokens: int

  @property
  def right(self) -> bool:
    """Whether it is valid, complete and right."""
    return (self.valid and not self.truncated and self.accuracy is not None
            and self.accuracy >= 1.0)


def fates(prompt: Prompt, samples: Sequence[Sample], cfg: SelectConfig,
          seed: int) -> list[str]:
  """For each sample `KEPT`, or the first reason that excludes it.

  Args:
    prompt: the question.
    samples: its answers.
    cfg: the rules.
    seed: of the draw among more than `cfg.keep` answers; the draw also depends
      on the question's id and the answer's index.
  """
  outcomes = [_verdict(sample) for sample in samples]
  judged = sum(sample.valid for sample in samples)
  rate = sum(sample.right for sample in samples) / max(judged, 1)
  seen: set[str] = set()
  for i, sample in enumerate(samples):
    if outcomes[i] != KEPT:
      continue
    if not cfg.min_rate <= rate <= cfg.max_rate:
      outcomes[i] = ("too hard a question" if rate < cfg.min_rate
                     else "too easy a question")
      continue
    outcomes[i] = unfit(sample.text, sample.format, prompt.language, cfg) or (
        "copy of another" if sample.text.strip() in seen else KEPT)
    if outcomes[i] == KEPT:
      seen.add(sample.text.strip())
  passed = [i for i, fate in enumerate(outcomes) if fate == KEPT]
  # An answer's draw does not depend on which others passed.
  draw = {i: np.random.default_rng((seed, prompt.id, i)).random()
          for i in passed}
  for i in sorted(passed, key=draw.__getitem__)[cfg.keep:]:
    outcomes[i] = f"beyond {cfg.keep} a question"
  return outcomes


def _verdict(sample: Sample) -> str:
  if not sample.valid:
    return "no verdict"
  if sample.accuracy is None:
    return NO_RULE
  if sample.truncated:
    return "truncated"
  return KEPT if sample.right else "wrong"


def unfit(text: str, form: float | None, language: str, cfg: SelectConfig
          ) -> str | None:
  """Why a right answer is not fit for training, or None.

  Args:
    text: thought and answer.
    form: its format reward, None if unknown.
    language: that the thought should be in.
    cfg: the rules.
  """
  if cfg.form and form is not None and form < 1.0:
    return "other form"
  return filters.reason(text, language, cfg.filters)


class Group(NamedTuple):
  """Counts of one domain's rows: a line of the R1 paper's Table 5.

  Attributes:
    domain: its name.
    rows: number of dialogues.
    rounds: number of questions in all of them.
    tokens: number of tokens in all of them.
  """

  domain: str
  rows: int = 0
  rounds: int = 0
  tokens: int = 0


class Report:
  """Counts of kept and excluded answers and of the rows written.

  Attributes:
    fates: domain -> `KEPT` or reason -> number of answers.
    groups: domain -> counts of the rows written.
  """

  def __init__(self):
    self.fates: dict[str, collections.Counter[str]] = {}
    self.groups: dict[str, Group] = {}

  def fell(self, domain: str, outcomes: Iterable[str]) -> None:
    """Adds the `fates` of answers."""
    self.fates.setdefault(domain, collections.Counter()).update(outcomes)

  def wrote(self, domain: str, rounds: int, tokens: int) -> None:
    """Adds a row that was written."""
    group = self.groups.get(domain, Group(domain))
    self.groups[domain] = group._replace(
        rows=group.rows + 1, rounds=group.rounds + rounds,
        tokens=group.tokens + tokens)

  @property
  def total(self) -> Group:
    """The counts of all domains together."""
    groups = self.groups.values()
    return Group("total", *(sum(g[i] for g in groups) for i in (1, 2, 3)))

  def counts(self, what: str = "answers") -> str:
    """`fates` as a table: a line per reason, a column per domain."""
    domains = sorted(self.fates)
    names = collections.Counter()
    for counts in self.fates.values():
      names.update(counts)
    names[KEPT] += 0
    lines = sorted(names, key=lambda name: (name == KEPT, -names[name], name))
    return tables.render([what, *domains, "total"], [
        [name, *(str(self.fates[d][name]) for d in domains), str(names[name])]
        for name in lines])

  def table(self) -> str:
    """The written rows in the form of the R1 paper's Table 5."""
    groups = [self.groups[domain] for domain in sorted(self.groups)]
    return tables.render(["domain", "samples", "avg rounds", "avg tokens"], [
        [g.domain, str(g.rows), f"{g.rounds / max(g.rows, 1):.1f}",
         f"{g.tokens / max(g.rows, 1):.1f}"] for g in [*groups, self.total]])

  def to_json(self) -> Mapping[str, Any]:
    """All counts, JSON-ready."""
    return {"answers": {domain: dict(sorted(counts.items()))
                        for domain, counts in sorted(self.fates.items())},
            "written": [self.groups[domain]._asdict()
                        for domain in sorted(self.groups)]}
