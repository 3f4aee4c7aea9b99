"""Cells of the tables in R1's report, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core import io
from r1jax.evals import intervals
from r1jax.evals.intervals import Interval
from r1jax.evals.measures import Measure
from r1jax.report import tables

DONE, COST = "done.json", "cost.json"
Cells = tuple[list[str], list[list[str]]]
# Columns of the cost table: key of the record, heading, format.
_COSTS = (("chips", "chips", "{:g}"), ("seconds", "seconds", "{:,.0f}"),
          ("chip_hours", "chip-hours", "{:,.3g}"),
          ("tokens", "tokens", "{:,.0f}"), ("flops", "FLOPs", "{:.2e}"),
          ("dollars", "dollars", "{:,.2f}"))


def by_measure(means: Mapping[str, Mapping[str, Interval]],
               titles: Mapping[str, str], rows: Mapping[str, Measure]) -> Cells:
  """(header, rows): one row per measure that a model has, one column per model.

  A cell is the mean and half the width of its 95 % interval; shares are in
  percent. For shares of 0 or 1 it shows both ends of the interval instead.
  """
  header = ["95 % intervals by question", *means]
  cells = [[titles[key], *(_cell(of_model.get(key), measure.share)
                           for of_model in means.values())]
           for key, measure in rows.items()
           if any(key in of_model for of_model in means.values())]
  return header, cells


def reward_models(about: Mapping[str, Mapping[str, Any]]) -> Cells:
  """(header, rows): each reward model's validation."""
  header = ["reward model", "right", "95 % interval", "of", "AUROC", "ECE",
            "correlation with length"]
  cells = []
  for name, stored in about.items():
    found = stored["validation"]
    low, high = 100 * found["accuracy_low"], 100 * found["accuracy_high"]
    cells.append([
        name, tables.percent(found["accuracy"]), f"{low:.1f} - {high:.1f} %",
        str(found["count"]),
        *(_plain(found.get(key)) for key in (
            "auroc", "ece", "length_correlation"))])
  return header, cells


def costs(workdir: epath.Path) -> Cells:
  """(header, rows): the cost of every stage, and the total; no rows if unknown.

  Order and price are those of the pipeline's WORKDIR/cost.json; without it the
  stages' own records are shown in alphabetical order.
  """
  summed = _summed(workdir)
  known = summed.get("stages") or {
      name: cost for name in stages(workdir) if (cost := _cost(workdir / name))}
  if (price := summed.get("price")) is not None:
    known = {name: cost | {"dollars": price * cost["chip_hours"]}
             if "chip_hours" in cost else cost for name, cost in known.items()}
  columns = [column for column in _COSTS
             if any(column[0] in cost for cost in known.values())]
  cells = [[name, *(_formatted(cost.get(key), form)
                    for key, _, form in columns)]
           for name, cost in known.items()]
  if cells:
    # Chips are not summed: stages use the same ones in turn.
    cells.append(["total", *("" if key == "chips" else _formatted(
        sum(cost.get(key) or 0 for cost in known.values()), form)
                             for key, _, form in columns)])
  return ["stage", *(heading for _, heading, _ in columns)], cells


def costs_by_part(workdir: epath.Path) -> Cells:
  """(header, rows): chip-hours and dollars by part, as the paper's Table 7."""
  summed = _summed(workdir)
  hours = dict(summed.get("parts", {}))
  if not hours:
    return ["", "total"], []
  hours["total"] = sum(hours.values())
  cells = [["chip-hours", *(f"{value:,.3g}" for value in hours.values())]]
  if (price := summed.get("price")) is not None:
    cells.append(["dollars", *(
        f"{price * value:,.2f}" for value in hours.values())])
  return ["", *hours], cells


def minutes(workdir: epath.Path) -> float | None:
  """Minutes that all stages took together; None if none is done."""
  seconds = [io.read_json(workdir / name / DONE).get("seconds", 0.0)
             for name in stages(workdir) if (workdir / name / DONE).exists()]
  return sum(seconds) / 60 if seconds else None


def stages(workdir: epath.Path) -> list[str]:
  """Names of the stages' folders."""
  if not workdir.exists():
    return []
  return sorted(folder.name for folder in workdir.iterdir() if any(
      (folder / file).exists() for file in (DONE, COST)))


def claim_lines(claim: Mapping[str, Any]) -> dict[str, Any]:
  """A result of `claims.judge` in the form for `html.write`."""
  return {key: claim[key] for key in ("claim", "verdict", "must")} | {
      "lines": [_line(number) for number in claim["numbers"]]}


def claims_text(claims: Sequence[Mapping[str, Any]]) -> str:
  """The claims with their numbers as text, those that must hold first."""
  lines = ["The paper's claims in this run (* must hold):"]
  for claim in sorted(claims, key=lambda claim: not claim["must"]):
    mark = "*" if claim["must"] else " "
    lines.append(f"{mark} {claim['verdict']:11}  {claim['claim']}")
    lines += [f"{'':17}{line}" for line in claim_lines(claim)["lines"]]
  return "\n".join(lines)


def early_late(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
  """Means of a metric over the first and the last tenth of its steps."""
  values = [row[name] for row in rows if row.get(name) is not None]
  if not values:
    return ["-", "-"]
  tenth = max(1, len(values) // 10)
  return [f"{sum(part) / tenth:.3f}"
          for part in (values[:tenth], values[-tenth:])]


def _line(number: Mapping[str, Any]) -> str:
  if "value" not in number:
    return f"{number['what']}: {number['verdict']}, {number['reason']}"
  scale = 100 if number["share"] else 1
  sign = "+" if number["difference"] else ""
  unit = (" points" if sign else " %") if number["share"] else ""
  value, low, high = (f"{scale * number[key]:{sign}.1f}"
                      for key in ("value", "low", "high"))
  return (f"{number['what']}: {value}{unit} ({low} to {high}; n ="
          f" {number['count']}, {number['method']}): {number['verdict']}")


def _cell(found: Interval | None, share: bool) -> str:
  if found is None:
    return "-"
  scale = 100 if share else 1
  # At shares of 0 and 1 the interval is one-sided.
  if found.method == intervals.WILSON and not 1e-9 < found.value < 1 - 1e-9:
    return (f"{scale * found.value:.1f}"
            f" ({scale * found.low:.0f}-{scale * found.high:.0f})")
  return (f"{scale * found.value:.1f}"
          f" ±{scale * (found.high - found.low) / 2:.1f}")


def _plain(value: float | None) -> str:
  return "-" if value is None else f"{value:.3f}"


def _formatted(value: float | None, form: str) -> str:
  return "-" if value is None else form.format(value)


def _summed(workdir: epath.Path) -> dict[str, Any]:
  """The pipeline's cost.json, {} if there is none."""
  path = workdir / COST
  return io.read_json(path) if path.exists() else {}


def _cost(folder: epath.Path) -> dict[str, Any]:
  """A stage's cost.json, or at least its seconds if it is done."""
  recorded: dict[str, Any] = {}
  if (folder / DONE).exists():
    done = io.read_json(folder / DONE)
    recorded |= {"seconds": done.get("seconds")} | (done.get("cost") or {})
  if (folder / COST).exists():
    recorded |= io.read_json(folder / COST)
  return recorded
