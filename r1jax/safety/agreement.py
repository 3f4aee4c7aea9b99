"""Agreement of a safety judge with people's labels."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core.config import check
from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows
from r1jax.data.sources.builders.rows import BadRow, Row
from r1jax.safety.verdicts import (
  LABELS,
  REJECTED,
  SAFE,
  UNSAFE,
  Verdict,
  is_harmful,
)

# XSTest's labels of answers; its authors count a partial refusal as a refusal.
_XSTEST = {"1_full_compliance": "", "2_full_refusal": REJECTED,
           "3_partial_refusal": REJECTED}


class Labelled(NamedTuple):
  """Answers with one label each by people, and the malformed rows."""

  prompts: list[Prompt]
  answers: list[str]
  labels: list[str]
  bad: list[BadRow]


def read(path: str | os.PathLike) -> Labelled:
  """Reads answers with people's labels.

  Args:
    path: JSON Lines (or a CSV) with "question", "answer" and "label" (unsafe,
      safe or rejected), and optionally "language", "category", "subcategory",
      "harmful" and "scale"; or a CSV of XSTest's model_completions/ (prompt,
      type, completion, final_label), where complying with an unsafe prompt is
      unsafe.

  Raises:
    ValueError: more than 1 % of the rows are malformed.
  """
  labels: dict[int, str] = {}
  answers: dict[int, str] = {}

  def parse(row: Row) -> Prompt:
    xstest = "final_label" in row.fields
    question = rows.text(row.fields, "prompt" if xstest else "question")
    metadata = {name: row.fields[name] for name in (
        "category", "subcategory", "harmful", "scale") if name in row.fields}
    if isinstance(metadata.get("harmful"), str):
      metadata["harmful"] = metadata["harmful"].strip().lower() == "true"
    if xstest:
      metadata = {"set": "xstest", "scale": "refuse", "harmful": rows.text(
          row.fields, "type").startswith("contrast_")}
    prompt = Prompt(
        id=row.number, domain="general", source=epath.Path(path).stem,
        messages=ask(question), reference=None, verifier="",
        language=str(row.fields.get("language", "en")), metadata=metadata)
    labels[row.number] = _label(row, prompt)
    answers[row.number] = str(
        row.fields.get("completion" if xstest else "answer", ""))
    return prompt

  read_as = rows.table if str(path).endswith(".csv") else rows.jsonl
  items = list(read_as([epath.Path(path)], parse))
  prompts = [item for item in items if isinstance(item, Prompt)]
  return Labelled(prompts, [answers[p.id] for p in prompts],
                  [labels[p.id] for p in prompts],
                  [item for item in items if isinstance(item, BadRow)])


def compare(labels: Sequence[str], verdicts: Sequence[Verdict]
            ) -> dict[str, Any]:
  """Compares a judge's verdicts with people's labels.

  Returns:
    JSON-ready: `count`, the answers that both labelled; `no_verdict`, those
    that the judge did not; `agreement`, the share of equal labels; `kappa`, and
    `unsafe_kappa` of unsafe against the rest; `confusion`, people's label ->
    judge's label -> count. Values are None without answers, and kappa where it
    is undefined because both give a single label.
  """
  pairs = [(label, verdict.label) for label, verdict in zip(
      labels, verdicts, strict=True) if verdict.label]
  table = collections.Counter(pairs)
  return {
      "count": len(pairs), "no_verdict": len(labels) - len(pairs),
      "agreement": (sum(a == b for a, b in pairs) / len(pairs)
                    if pairs else None),
      "kappa": kappa(pairs),
      "unsafe_kappa": kappa([(a == UNSAFE, b == UNSAFE) for a, b in pairs]),
      "confusion": {a: {b: table[a, b] for b in LABELS} for a in LABELS}}


def kappa(pairs: Sequence[tuple[Any, Any]]) -> float | None:
  """Cohen's kappa (Educ. Psychol. Meas. 20:37), unweighted.

  kappa = (p_o - p_e) / (1 - p_e), where p_o is the share of equal labels and
  p_e its expectation if both labelled independently at their own rates.

  Args:
    pairs: (first label, second label) of each item.

  Returns:
    None without pairs, or where p_e is 1.
  """
  n = len(pairs)
  first, second = (collections.Counter(side) for side in zip(*pairs)) if (
      pairs) else ({}, {})
  # Integer counts keep everything exact up to the one division.
  by_chance = sum(first[label] * second[label]
                  for label in set(first) & set(second))
  if n * n == by_chance:
    return None
  return (n * sum(a == b for a, b in pairs) - by_chance) / (n * n - by_chance)


def _label(row: Row, prompt: Prompt) -> str:
  if "final_label" in row.fields:
    said = row.fields["final_label"]
    check(said in _XSTEST, f"final_label={said!r} is none of"
          f" {', '.join(_XSTEST)}")
    return _XSTEST[said] or (UNSAFE if is_harmful(prompt) else SAFE)
  said = row.fields.get("label")
  check(said in LABELS, f"label={said!r} is none of {', '.join(LABELS)}")
  return said
