"""Flags of risk control."""

from __future__ import annotations

import dataclasses
from typing import Any

from r1jax.safety.risk_control import RiskConfig, RiskControl
from r1jax.stages import guarding
from r1jax.stages.programs import Means
from r1jax.stages.replies import ReplyConfig

from . import flagset, replying

RISK = flagset.define(RiskConfig, "risk")
REVIEWER = flagset.define(ReplyConfig(temperature=0.0), "reviewer")
REVIEWS = "reviews"  # folder of an endpoint's stored replies


def control(folder: str = "") -> RiskControl | None:
  """The risk control of the flags; None without --risk.reviewer.

  Args:
    folder: where an endpoint's replies are stored; "" stores none.
  """
  return guarding.load(RISK.value(), _means(folder))


def settings() -> dict[str, Any] | None:
  """All settings that its decisions depend on, for a run's config."""
  return guarding.settings(RISK.value(), _means(""))


def _means(folder: str) -> Means:
  means = replying.means(REVIEWER.value(), folder)
  return dataclasses.replace(
      means, cache=f"{folder}/{REVIEWS}" if folder else "")
