"""Several sources as one endless stream, a function of (seed, position).

  parse("gsm8k:2,mbpp:1")       weights: 2/3 of the draws and 1/3
  parse("gsm8k:3x,mbpp:0.5x")   epochs: one pass of the mixture has every row of
                                gsm8k 3 times and a fixed half of mbpp once
  parse("gsm8k:10%")            the same as 0.1x
  parse("gsm8k,mbpp")           1x each
  parse("r1-rl")                the R1 paper's seven kinds of prompts
  parse("r1-rl:math+code")      two of them, in the paper's proportion

Sources are interleaved so that after any number of draws each source's count is
within one of its exact share. Each epoch of a source is shuffled anew.
"""

from __future__ import annotations

import dataclasses
import fractions
import hashlib
import heapq
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from grain.experimental import index_shuffle

from r1jax.core.config import DataError, check
from r1jax.core.prompt import Prompt

# DeepSeek-R1's RL prompts, in thousands (arXiv:2501.12948 v2, Table 4). In the
# paper reward models judge `general` and `safety`, rules the other kinds.
R1_RL = (("math", 26.0), ("code", 17.0), ("bugfix", 8.0), ("stem", 22.0),
         ("logic", 15.0), ("general", 66.0), ("safety", 12.0))
PRESETS = {"r1-rl": R1_RL}

IDS = 10_000_000  # the range of ids of one source in a mixture
SOURCES = 2**31 // IDS  # the most sources, so that ids stay below 2**31
UNITS = ("epochs", "weight", "kind")

# Weights that need a longer period to be exact are rounded to this many draws.
_PERIOD = 2**17
_LONGEST = 10**7  # the most draws in one pass; `deal` takes 10 s for them
_ITEM = re.compile(r"([^:,\[\]]+(?:\[[^\[\]]*\])?)(?::(.*))?", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
  """The sources of a mixture and their amounts; `parse` makes it from text.

  Attributes:
    amounts: (name, amount) pairs.
    unit: the meaning of names and amounts: "epochs" of each source in one pass,
      "weight" of each source in the draws, or "kind": weight of each kind of
      prompts (`kind_of`) from all sources, which contribute to a kind in
      proportion to their rows of it.
  """

  amounts: tuple[tuple[str, float], ...]
  unit: str = "epochs"

  def __post_init__(self):
    check(self.unit in UNITS,
          f"unit={self.unit!r}: choose from {', '.join(UNITS)}")
    check(len(self.amounts) > 0, "the mixture has no source; give gsm8k or"
          " gsm8k:2,mbpp:1, for example")
    names = [name for name, _ in self.amounts]
    for name, amount in self.amounts:
      check(bool(name.strip()), f"a source of {names} has no name")
      check(names.count(name) == 1, f"the mixture names {name!r} twice; give"
            f" it once with the total amount, such as {name}:2x")
      check(math.isfinite(amount) and amount > 0,
            f"the amount {amount} of {name!r} must be positive and finite; to"
            " exclude a source, leave it out")
    if self.unit == "kind":
      known = [kind for kind, _ in R1_RL]
      unknown = [name for name in names if name not in known]
      check(not unknown, f"there is no kind {', '.join(unknown)} of prompts;"
            f" choose from {', '.join(known)}")


def parse(text: str) -> MixtureConfig:
  """A mixture from a flag's text, in the forms of the module's docstring.

  Raises:
    ValueError: malformed text; the message says which part and what to write.
  """
  preset, _, kinds = text.strip().partition(":")
  if preset in PRESETS:
    return _preset(preset, kinds, ":" in text)
  amounts, units = [], {}
  for item in text.split(","):
    match = _ITEM.fullmatch(item.strip())
    check(match is not None, f"{item!r} in the mixture {text!r} is not NAME,"
          " NAME:WEIGHT, NAME:EPOCHSx or NAME:PERCENT%", DataError)
    name, amount = match[1].strip(), match[2]
    check(name not in PRESETS, f"the preset {name!r} in the mixture {text!r}"
          " cannot be mixed with sources; give weights instead")
    value, unit = _amount(name, amount)
    amounts.append((name, value))
    units.setdefault(unit, item.strip())
  check(len(units) == 1, f"the mixture {text!r} has both weights"
        f" ({units.get('weight')}) and epochs ({units.get('epochs')}); give"
        " every source a weight (gsm8k:2) or every source epochs (gsm8k:2x;"
        " gsm8k alone is 1x)")
  return MixtureConfig(amounts=tuple(amounts), unit=units.popitem()[0])


def _preset(name: str, kinds: str, restricted: bool) -> MixtureConfig:
  amounts = dict(PRESETS[name])
  if restricted:
    chosen = [kind.strip() for kind in kinds.split("+")]
    for kind in chosen:
      check(kind in amounts, f"{name} has no kind {kind!r}; it has"
            f" {', '.join(amounts)}; write {name}:math+code")
      check(chosen.count(kind) == 1, f"{name}:{kinds} names {kind} twice")
    amounts = {k: v for k, v in amounts.items() if k in chosen}
  return MixtureConfig(amounts=tuple(amounts.items()), unit="kind")


def _amount(name: str, text: str | None) -> tuple[float, str]:
  if text is None:
    return 1.0, "epochs"
  text = text.strip()
  unit = "epochs" if text[-1:] in ("x", "%") else "weight"
  try:
    value = float(text[:-1] if unit == "epochs" else text)
  except ValueError:
    raise ValueError(
        f"{text!r} of the source {name!r} is not an amount; write {name}:2 (a"
        f" weight), {name}:2x (epochs) or {name}:10%") from None
  return (value / 100 if text.endswith("%") else value), unit


def kind_of(prompt: Prompt) -> str:
  """The kind that presets weigh: bugfix, safety, or else the domain."""
  if prompt.verifier == "bugfix":
    return "bugfix"
  return "safety" if prompt.metadata.get("safety") is True else prompt.domain


def number(parts: Mapping[str, Sequence[Prompt]], name: str, prompt: Prompt
           ) -> Prompt:
  """The prompt with an id that is unique in a mixture of `parts`.

  Different sources use the same ids. In a mixture an id becomes 10,000,000 x
  (the index of the source in alphabetical order) + id. A single source keeps
  its ids.

  Args:
    parts: source name -> its prompts.
    name: the prompt's source.
    prompt: with its id in the source.

  Raises:
    ValueError: too many sources, or an id too large.
  """
  check(len(parts) <= SOURCES, f"a mixture has at most {SOURCES} sources (its"
        f" prompt ids must stay below 2**31), not {len(parts)}")
  if len(parts) == 1:
    return prompt
  check(0 <= prompt.id < IDS, f"prompt {prompt.id} of {name!r}: in a mixture"
        f" ids must be in 0..{IDS - 1}; split the source into several")
  base = IDS * sorted(parts).index(name)
  return dataclasses.replace(prompt, id=base + prompt.id)


class Stream(NamedTuple):
  """Rows of one source that are shuffled together and have one share.

  Attributes:
    name: of the source.
    what: which of its rows: "all", "part" (a fixed fraction) or a kind.
    rows: int64, indices of the rows in the source.
    draws: the number of draws from it in a period.
  """

  name: str
  what: str
  rows: np.ndarray
  draws: int


class Mixture:
  """Sources in the proportions of a config; `order` is the mixed stream.

  Attributes:
    streams: the streams that are interleaved.
    period: number of draws after which all shares are exact; with epochs, one
      pass.
  """

  def __init__(self, parts: Mapping[str, Sequence[Prompt]],
               config: MixtureConfig):
    """Makes the streams; all prompts are read only if the unit is "kind".

    Args:
      parts: source name -> its prompts.
      config: the amounts, for exactly the sources in `parts`; or for kinds of
        which `parts` has prompts.

    Raises:
      ValueError: names differ, a source is empty, or a kind has no prompts.
    """
    check(len(parts) > 0, "the mixture has no source")
    empty = [name for name, prompts in parts.items() if not len(prompts)]
    check(not empty, f"the source {', '.join(empty)} has no prompts; leave it"
          " out of the mixture")
    self._parts = dict(parts)
    name = min(parts)
    number(parts, name, parts[name][0])  # raises if there are too many sources
    self.streams = (
        _kinds(parts, config) if config.unit == "kind"
        else _sources(parts, config))
    dealt = deal([stream.draws for stream in self.streams])
    self.period = len(dealt)
    # The stream of each draw of a period, and its number within the stream.
    self._dealt, self._turn = dealt, np.zeros(len(dealt), np.int32)
    for which, stream in enumerate(self.streams):
      self._turn[dealt == which] = np.arange(stream.draws)

  def order(self, seed: int) -> Callable[[int], Prompt]:
    """A pure function from position 0, 1, ... to the prompt there.

    A mixture of one whole source has the same order as that source alone in
    `pipeline.prompt_batches`.
    """
    alone = len(self.streams) == 1
    seeds = [seed if alone else _digest(f"{seed} {stream.name} {stream.what}")
             for stream in self.streams]  # streams are shuffled independently

    def at(position: int) -> Prompt:
      period, draw = divmod(int(position), self.period)
      which = int(self._dealt[draw])
      stream = self.streams[which]
      count = len(stream.rows)
      epoch, turn = divmod(
          period * stream.draws + int(self._turn[draw]), count)
      # The order of grain.MapDataset.shuffle(seed).repeat().
      row = index_shuffle(turn, max_index=count - 1,
                          seed=(seeds[which] + epoch) % 2**32, rounds=4)
      prompt = self._parts[stream.name][int(stream.rows[row])]
      return number(self._parts, stream.name, prompt)

    return at

  def explain(self) -> str:
    """Rows, share of the draws and epoch length of each stream, for a log."""
    lines = []
    for stream in self.streams:
      what = "" if stream.what == "all" else f" ({stream.what})"
      lines.append(
          f"{stream.name}{what}: {len(stream.rows)} prompts,"
          f" {stream.draws / self.period:.1%} of the draws, an epoch every"
          f" {math.ceil(len(stream.rows) * self.period / stream.draws)} draws")
    return "\n".join(lines)


def deal(draws: Sequence[int]) -> np.ndarray:
  """The stream of each of sum(draws) draws, spread as evenly as possible.

  After t draws stream i has had t * draws[i] / sum(draws), rounded up or down.
  For a stream with n of p draws, draw m must be at a position from
  floor((m - 1) p / n) to before ceil(m p / n); taking the draw with the
  earliest deadline always meets all of them (Tijdeman, "The chairman assignment
  problem", 1980).

  Args:
    draws: the number of draws of each stream, all positive.

  Returns:
    int16 [sum(draws)].
  """
  total = sum(draws)
  waiting = [(0, which) for which in range(len(draws))]
  heapq.heapify(waiting)
  done, ready = [0] * len(draws), []
  streams = np.empty(total, np.int16)
  for slot in range(total):
    while waiting and waiting[0][0] <= slot:
      _, which = heapq.heappop(waiting)
      end = -(-(done[which] + 1) * total // draws[which])
      heapq.heappush(ready, (end, which))
    _, which = heapq.heappop(ready)
    streams[slot] = which
    done[which] += 1
    if done[which] < draws[which]:
      heapq.heappush(waiting, (done[which] * total // draws[which], which))
  return streams


def _sources(parts: Mapping[str, Sequence[Prompt]], config: MixtureConfig
             ) -> tuple[Stream, ...]:
  amounts = dict(config.amounts)
  unknown = sorted(set(amounts) - set(parts))
  check(not unknown, f"the mixture names {', '.join(unknown)}, not loaded;"
        f" loaded are {', '.join(parts)}")
  unnamed = sorted(set(parts) - set(amounts))
  check(not unnamed, f"the mixture does not name {', '.join(unnamed)}, which is"
        " loaded; add it or do not load it")
  rows = {name: np.arange(len(parts[name])) for name in sorted(amounts)}
  if config.unit == "weight":
    draws = _rounded([_exact(amounts[name]) for name in rows])
    return tuple(Stream(name, "all", rows[name], count)
                 for name, count in zip(rows, draws, strict=True))
  streams = []
  for name, mine in rows.items():
    whole, rest = divmod(_exact(amounts[name]), 1)
    if whole:
      streams.append(Stream(name, "all", mine, int(whole) * len(mine)))
    some = round(rest * len(mine))
    if some or not whole:
      # The same rows for every seed of a run.
      chosen = np.random.default_rng(_digest(name)).permutation(len(mine))
      chosen = np.sort(chosen[:max(some, 1)])
      streams.append(Stream(name, "part", chosen, len(chosen)))
  total = sum(stream.draws for stream in streams)
  check(total <= _LONGEST, f"one pass of the mixture has {total} draws, more"
        f" than {_LONGEST}; give fewer epochs, or weights")
  return tuple(streams)


def _kinds(parts: Mapping[str, Sequence[Prompt]], config: MixtureConfig
           ) -> tuple[Stream, ...]:
  amounts = dict(config.amounts)
  rows_of: dict[tuple[str, str], list[int]] = {}
  for name in sorted(parts):
    for row, prompt in enumerate(parts[name]):
      rows_of.setdefault((kind_of(prompt), name), []).append(row)
  there = {kind for kind, _ in rows_of}
  missing = [kind for kind in amounts if kind not in there]
  have = [kind for kind, _ in R1_RL if kind in there]
  # Only the r1-rl preset uses kinds.
  check(not missing, f"no source has prompts of the kind {', '.join(missing)},"
        f" which the mixture needs; add a source, or give"
        f" r1-rl:{'+'.join(k for k in have if k in amounts) or 'KIND'} for the"
        " kinds that the sources have, or weights by source:"
        f" {','.join(f'{name}:1' for name in sorted(parts))}")
  used = {key: rows for key, rows in rows_of.items() if key[0] in amounts}
  unused = sorted(set(parts) - {name for _, name in used})
  check(not unused, f"{', '.join(unused)} has no prompts of the mixture's kinds"
        f" ({', '.join(amounts)}); do not load it")
  of_kind: dict[str, int] = {}
  for (kind, _), rows in used.items():
    of_kind[kind] = of_kind.get(kind, 0) + len(rows)
  draws = _rounded([
      _exact(amounts[kind]) * len(rows) / of_kind[kind]
      for (kind, _), rows in used.items()])
  return tuple(Stream(name, kind, np.array(rows, np.int64), count)
               for ((kind, name), rows), count
               in zip(used.items(), draws, strict=True))


def _exact(amount: float) -> fractions.Fraction:
  """The decimal number as it was written: 0.1 is exactly 1/10."""
  return fractions.Fraction(str(amount))


def _rounded(weights: Sequence[fractions.Fraction]) -> list[int]:
  """The smallest positive integers in these proportions.

  If their sum exceeds `_PERIOD`, they are scaled to that sum and rounded by
  largest remainders, then raised to at least 1 each.
  """
  scale = math.lcm(*(weight.denominator for weight in weights))
  whole = [int(weight * scale) for weight in weights]
  divisor = math.gcd(*whole)
  whole = [count // divisor for count in whole]
  total = sum(whole)
  if total <= _PERIOD:
    return whole
  counts = [count * _PERIOD // total for count in whole]
  remainders = sorted(range(len(whole)),
                      key=lambda i: (-(whole[i] * _PERIOD % total), i))
  for i in remainders[:_PERIOD - sum(counts)]:
    counts[i] += 1
  return [max(count, 1) for count in counts]


def _digest(text: str) -> int:
  digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
  return int.from_bytes(digest, "little")
