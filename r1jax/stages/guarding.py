"""Builds risk control from its settings: keywords, rules, reviewer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from r1jax.safety import keywords, review
from r1jax.safety.keywords import Keywords
from r1jax.safety.risk_control import RiskConfig, RiskControl
from r1jax.stages import programs
from r1jax.stages.programs import Means

ALL = "all"  # instead of keywords: every answer is reviewed


def load(cfg: RiskConfig, means: Means) -> RiskControl | None:
  """The risk control that `cfg` describes; None if it names no reviewer.

  The reviewer is a model, an endpoint, or a function (messages, answer) -> ids
  of the rules that the answer breaks, None if it cannot tell.

  Args:
    cfg: its settings.
    means: settings of reviewers that are models or endpoints.

  Raises:
    ValueError: there is no such reviewer, or as `keywords.read` and
      `review.rules`.
  """
  if not cfg.reviewer:
    return None
  rules = review.rules(cfg.rules)
  generate = programs.replier(cfg.reviewer, means)
  reviewer = (review.by_program(programs.load(cfg.reviewer)) if generate is None
              else review.by_model(generate, rules, cfg.seed))
  return RiskControl(_keywords(cfg), reviewer, cfg,
                     silent=generate and generate.failures)


def settings(cfg: RiskConfig, means: Means) -> dict[str, Any] | None:
  """All that decisions depend on, JSON-ready; None without a reviewer."""
  if not cfg.reviewer:
    return None
  texts = [None if ALL in cfg.keywords else keywords.read(cfg.keywords),
           review.rules(cfg.rules)]
  digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
  return dataclasses.asdict(cfg) | {
      "reviewer": means.settings(cfg.reviewer), "texts": digest}


def _keywords(cfg: RiskConfig) -> Keywords | None:
  return (None if ALL in cfg.keywords
          else Keywords(keywords.read(cfg.keywords)))
