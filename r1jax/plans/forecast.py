"""Estimates a plan: updates, samples, tokens, FLOPs, chip-hours, dollars.

They are computed from the stages' flags, without a device. What flags do not
say, above all mean lengths, is in the plan (`expect`): prompt and length (mean
tokens), tokens (per row), rows, questions, harmful (questions that are also
asked in jailbreaks), policies. Evaluations during training, reward models in
the loop, and models that judge or rewrite are not counted.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from r1jax.accounting import chips, flops
from r1jax.accounting import cost as cost_lib
from r1jax.checkpoint import export, hf_config, inits
from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check
from r1jax.models import presets
from r1jax.models.config import ModelConfig
from r1jax.plans import plan as plan_lib
from r1jax.plans.plan import Plan, Stage
from r1jax.report import tables

HEADER = ["stage", "reads", "updates", "samples", "tokens", "FLOPs",
          "chip-hours", "dollars"]
# Default shares of a chip's peak FLOP/s; decoding is bound by memory. With a
# plan's own `flops_per_s` they are 1.
SAMPLING, TRAINING = 0.03, 0.3
# Default samples per question.
_DRAWN = {"evaluate": 16, "evaluate_safety": 1, "rejection": 16,
          "cold_start": 16, "label_pairs": 2, "label_answers": 2}


class Amount(NamedTuple):
  """What a stage needs.

  Attributes:
    updates: optimizer steps.
    samples: sampled completions.
    tokens: tokens that go through a model, in all passes.
    sampling: FLOPs of decoding.
    training: all other FLOPs.
  """

  updates: int = 0
  samples: int = 0
  tokens: float = 0.0
  sampling: float = 0.0
  training: float = 0.0


class Rates(NamedTuple):
  """Effective FLOP/s of one chip when sampling and training; dollars per hour.
  """

  sampling: float
  training: float
  price: float

  def hours(self, amount: Amount) -> float:
    """Chip-hours of an amount."""
    return (amount.sampling / self.sampling
            + amount.training / self.training) / 3600


def rates(plan: Plan, chip: str = "", price: float | None = None) -> Rates:
  """The rates of the plan's `estimate`, or of another chip.

  Args:
    plan: the plan.
    chip: key of `accounting.chips.CHIPS`; "" for the plan's own.
    price: dollars per chip-hour; None for the plan's own.

  Raises:
    ValueError: the chip is not in `accounting.chips`.
  """
  estimate = plan.estimate
  price = estimate.get("price", 0.0) if price is None else price
  shares = SAMPLING, TRAINING
  if "flops_per_s" in estimate and not chip:
    peak, shares = estimate["flops_per_s"], (1.0, 1.0)
  else:
    name = chip or estimate.get("chip", "H100")
    found = chips.of(name)
    check(found is not None, f"chip={name!r} is not one of"
          f" {', '.join(chips.CHIPS)}")
    peak = found.flops
  return Rates(peak * estimate.get("sampling", shares[0]),
               peak * estimate.get("training", shares[1]), price)


def amount(stage: Stage, flags: Mapping[str, str],
           model: Callable[[str], ModelConfig]) -> Amount | None:
  """What a stage needs; None if its experiment or its numbers are unknown.

  Args:
    stage: of a plan.
    flags: its own and those of its recipe.
    model: from a value of --init or --teacher to the model's config.
  """
  kind, flags = stage.run.rpartition(".")[2], Flags(flags)
  if kind in ("train_grpo", "distill"):
    return _reinforced(kind, flags, stage.expect, model)
  if kind in ("train_sft", "train_reward", "pretrain"):
    return _supervised(kind, flags, stage.expect, model)
  return _drawn(kind, flags, stage.expect, model) if kind in _DRAWN else None


class Flags(dict):
  """Flags as text, read as numbers."""

  def number(self, name: str, default: float) -> float:
    """A flag as a number; of a list the largest."""
    text = self.get(name, "")
    return max(map(float, text.split(","))) if text else default


def _reinforced(kind, flags, expect, model) -> Amount:
  cfg, steps = model(flags.get("init", "base")), flags.number("steps", 100)
  questions = steps * flags.number("questions", 16)
  samples = questions * flags.number("samples", 16)
  epochs = flags.number("epochs", 1)
  updates = flags.number("minibatches", 1) * epochs
  length = expect.get("length", flags.number("max_new_tokens", 96))
  prompt = expect.get("prompt", 64)
  read = samples * (prompt + length)
  forward = flops.forward(cfg, (prompt + length + 1) / 2)
  scored = (flags.number("policy.kl_beta", 0.001) > 0) + (updates > 1)
  training = read * forward * (cost_lib.TRAINING * epochs + scored)
  if kind == "distill":
    scored += 1
    training += read * flops.forward(
        model(flags["teacher"]), (prompt + length + 1) / 2)
  decoded = _decoded(cfg, questions, samples, prompt, length)
  return Amount(
      int(steps * updates), int(samples),
      decoded.tokens + read * (epochs + scored), decoded.sampling,
      decoded.training + training)


def _supervised(kind, flags, expect, model) -> Amount | None:
  default = {"train_sft": 16, "train_reward": 32, "pretrain": 16}[kind]
  rows = flags.number("rows", default) * flags.number(
      "row_length", 192 if kind == "pretrain" else 256)
  steps = flags.number("steps", 3600 if kind == "pretrain" else 0)
  sides = 2 if kind == "train_reward" and (
      flags.get("loss", "pairwise") == "pairwise") else 1
  tokens = steps * rows
  if not steps:
    if not {"rows", "tokens"} <= set(expect):
      return None
    epochs = flags.number("epochs", 2 if kind == "train_sft" else 1)
    tokens = expect["rows"] * sides * expect["tokens"] * epochs
    steps = math.ceil(tokens / rows)
  cfg = model(flags.get("init", "base"))
  return Amount(int(steps), 0, tokens, 0.0, tokens * flops.training(
      cfg, max(1, round(expect.get("tokens", rows)))))


def _drawn(kind, flags, expect, model) -> Amount | None:
  questions = expect.get("questions") or _sliced(flags)
  if not questions:
    return None
  if flags.get("jailbreaks"):
    questions += expect.get("harmful", questions) * flags.number(
        "jailbreak_templates", 1)
  policies = [init for init in flags.get("policies", "").split(",") if init]
  questions *= expect.get("policies", max(1, len(policies)))
  samples = questions * flags.number("samples", _DRAWN[kind])
  cfg = model((policies or [flags.get("init", "base")])[-1])
  return _decoded(
      cfg, questions, samples, expect.get("prompt", 64),
      expect.get("length", flags.number(
          "max_new_tokens", 512 if kind == "evaluate_safety" else 96)))


def _decoded(cfg, questions, samples, prompt, length) -> Amount:
  """Prefill of each question, and decoding of all samples."""
  return Amount(
      0, int(samples), questions * prompt + samples * length,
      samples * flops.sampling(cfg, prompt, length),
      questions * prompt * flops.forward(cfg, (prompt + 1) / 2))


def _sliced(flags: Flags) -> float:
  """Questions in --split=train[100:200] over all data sets; 0 if unknown."""
  match = re.search(r"\[(\d*):(\d+)\]", flags.get("split", ""))
  count = int(match[2]) - int(match[1] or 0) if match else 0
  return count * len(flags.get("data", "arith").split(","))


class Unknown(LookupError):
  """The model is in a folder whose placeholder has no value yet."""


class Models:
  """Configs of a plan's models, by values of --init."""

  def __init__(self, plan: Plan, values: Mapping[str, str]):
    """Reads nothing yet.

    Args:
      plan: its stages may be named in braces.
      values: replace {init} and the like; without a value for it, {init} is the
        model of the plan's estimate.
    """
    self._plan, self._values = plan, values

  def __call__(self, init: str) -> ModelConfig:
    """The config of the model that `init` names, which may have placeholders.

    Raises:
      ValueError: `init` names no model whose config is known.
      Unknown: the folder's placeholder has no value.
    """
    if init == "{init}" and "init" not in self._values:
      name = self._plan.estimate.get("model", "")
      check(bool(name), f"{self._plan.path}: give --init, or estimate.model, a"
            " preset")
      return presets.get(name)
    filled = plan_lib.fill(init, self._values)
    kind, _, what = filled.partition(":")
    if match := re.fullmatch(r"\{(\w+)\}(?:@\w+)?", what):
      flags = self._plan.stage(match[1]).flags
      return self(flags.get("init", "base"))
    if kind == "random":
      return presets.get(what)
    if kind == "base":  # the embedded models have the sizes of presets
      return presets.get(what if what in presets.PRESETS
                         else f"base-{what or 'arith'}")
    if "{" in what:
      raise Unknown(init)
    if kind == "hf":
      return hf_config.from_hf(io.read_json(f"{what}/config.json"))
    if kind == "orbax":
      stored = inits.settings_of(what)["model"]
    else:
      check(kind == "file", f"init={init!r} names no model whose sizes are"
            " known")
      stored = export.load_metadata(what)["model"]
    return config_lib.from_dict(ModelConfig, stored)


def cells(stages: Sequence[Stage], amounts: Mapping[str, Amount | None],
          rate: Rates) -> list[list[str]]:
  """Table rows for `HEADER`, one per stage, and their total."""
  rows, total = [], 0.0
  for stage in stages:
    found = amounts[stage.name]
    numbers = ["-"] * 6
    if found:
      total += rate.hours(found)
      numbers = [
          f"{found.updates:,}" if found.updates else "-",
          f"{found.samples:,}" if found.samples else "-",
          f"{found.tokens:.3g}", f"{found.sampling + found.training:.2e}",
          *priced(rate.hours(found), rate.price)]
    rows.append([stage.name, ", ".join(stage.reads) or "-", *numbers])
  return [*rows, ["all", *[""] * 5, *priced(total, rate.price)]]


def priced(hours: float, price: float) -> tuple[str, str]:
  """Chip-hours and dollars as tables show them."""
  return f"{hours:,.3g}" if hours < 1000 else f"{hours:,.0f}", (
      f"{hours * price:,.2f}" if hours * price < 1000 else
      f"{hours * price:,.0f}")


def text(plan: Plan, stages: Sequence[Stage],
         flags: Callable[[Stage], Mapping[str, str]],
         values: Mapping[str, str], rate: Rates) -> str:
  """The tables by stage and by part.

  Args:
    plan: the plan.
    stages: the stages to show.
    flags: from a stage to its flags and those of its recipe.
    values: see `Models`.
    rate: the chips' rates.
  """
  model = Models(plan, values)
  amounts: dict[str, Amount | None] = {}
  unknown = []
  for stage in stages:
    try:
      amounts[stage.name] = amount(stage, flags(stage), model)
    except Unknown:
      amounts[stage.name] = None
      unknown.append(stage.name)
  parts: dict[str, float] = {}
  for stage in stages:
    part = stage.part or stage.name
    if found := amounts[stage.name]:
      parts[part] = parts.get(part, 0.0) + rate.hours(found)
  left = textwrap.fill("Not in the totals, since their models' folders are not"
                       f" given: {', '.join(unknown)}", 80)
  return "\n\n".join([
      tables.render(HEADER, cells(stages, amounts, rate)),
      by_part(parts, rate.price), *([left] if unknown else ())])


def by_part(hours: Mapping[str, float], price: float) -> str:
  """The paper's Table 7, transposed: one row per part."""
  return tables.render(
      ["part", "chip-hours", "dollars"],
      [[line.part, *priced(line.hours, price)]
       for line in cost_lib.table(hours, price)])
