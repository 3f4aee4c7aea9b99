"""Removes exact and near duplicates of prompts across sources.

Exact duplicates have the same messages up to spaces and Unicode normalisation.
Near duplicates have sets of word 5-grams with a Jaccard similarity of at least
`Limits.similarity`, *and* the same numbers, verifier and reference. For
programs, whose tests are seldom written in the same way twice, all symbols in
the questions must agree instead of the reference. N-grams that many prompts of
a source share are ignored, since otherwise all problems of a template would be
duplicates. Candidates are found by MinHash (Broder, 1997) in bands and then
compared exactly.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.data.text import ngrams

_CHUNK = 500  # prompts hashed at once
_SHOWN = 5  # examples in a report
# A pair with similarity 0.8 shares a band with probability 0.9998.
_BANDS, _ROWS = 16, 4
_FACTORS = ngrams.mix(np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64)) | 1
_NUMBER = re.compile(r"\d+")
_NUMBER_OR_SIGN = re.compile(r"\d+|[^\w\s]")
_TESTED = ("code", "bugfix", "")  # verifiers whose references may differ


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What counts as the same problem.

  Attributes:
    similarity: least Jaccard similarity of near duplicates; 1 drops only
      copies.
    words: n of the n-grams.
    boilerplate: n-grams in more than this share of a source's prompts are
      ignored.
    least: n-grams in at most this many prompts are never ignored.
  """

  similarity: float = 0.8
  words: int = 5
  boilerplate: float = 0.01
  least: int = 20

  def __post_init__(self):
    check(0.5 <= self.similarity <= 1,
          f"similarity={self.similarity}: texts below 0.5 are not duplicates;"
          " choose 0.5 to 1")
    check(self.words > 0, f"words={self.words} must be positive")
    check(0 < self.boilerplate <= 1,
          f"boilerplate={self.boilerplate} is a share, in (0, 1]")
    check(self.least > 0, f"least={self.least} must be positive")


class Duplicate(NamedTuple):
  """A dropped prompt.

  Attributes:
    id: of the dropped prompt.
    kind: exact or near.
    source, first: source and id of the prompt that is kept instead.
  """

  id: int
  kind: str
  source: str
  first: int


def drop(
    parts: Mapping[str, Sequence[Prompt]], limits: Limits = Limits(),
    progress: Callable[[int], None] = lambda prompts: None
) -> tuple[dict[str, list[Prompt]], dict[str, list[Duplicate]]]:
  """Keeps the first of equal problems.

  Args:
    parts: {source: prompts}; earlier sources take precedence.
    limits: what counts as equal.
    progress: called with the number of prompts done, chunk by chunk.

  Returns:
    ({source: kept prompts in their order}, {source: duplicates}).
  """
  kept: dict[str, list[Prompt]] = {}
  dropped: dict[str, list[Duplicate]] = {}
  exact: dict[bytes, tuple[str, int]] = {}
  near = _Near(limits.similarity)
  for name, prompts in parts.items():
    kept[name], dropped[name] = [], []
    prompts = list(prompts)
    for number, shingles in enumerate(_shingles(prompts, limits, progress)):
      prompt, here = prompts[number], (name, prompts[number].id)
      first = exact.setdefault(_same(prompt), here)
      kind = "exact"
      if first is here:
        first, kind = near.first(prompt, shingles, here), "near"
      if first is here:
        kept[name].append(prompt)
      else:
        dropped[name].append(Duplicate(prompt.id, kind, *first))
  return kept, dropped


def summary(dropped: Mapping[str, Sequence[Duplicate]]) -> dict[str, Any]:
  """Numbers of duplicates by source and kind, with examples; JSON."""
  by_source: dict[str, Any] = {}
  for source, rows in dropped.items():
    by_source[source] = {}
    for kind in ("exact", "near"):
      mine = [row for row in rows if row.kind == kind]
      by_source[source][kind] = {"dropped": len(mine), "examples": [
          {"id": row.id, "same_as": f"{row.source} {row.first}"}
          for row in mine[:_SHOWN]]}
  return by_source


class _Near:
  """An index of the kept prompts by the bands of their MinHash signatures."""

  def __init__(self, similarity: float):
    self._similarity = similarity
    self._bands: dict[tuple, list[int]] = {}
    self._kept: list[tuple[np.ndarray, tuple[str, int]]] = []

  def first(self, prompt: Prompt, shingles: np.ndarray,
            here: tuple[str, int]) -> tuple[str, int]:
    """The first near duplicate of a prompt, else `here`, which is added."""
    if not len(shingles):
      return here
    signature = np.multiply.outer(_FACTORS, shingles).min(1)
    problem = _problem(prompt)
    keys = [(band, part.tobytes(), problem) for band, part
            in enumerate(signature.reshape(_BANDS, _ROWS))]
    like = {at for key in keys for at in self._bands.get(key, ())}
    for at in sorted(like):
      other, where = self._kept[at]
      shared = len(np.intersect1d(shingles, other, assume_unique=True))
      if shared >= self._similarity * (len(shingles) + len(other) - shared):
        return where
    for key in keys:
      self._bands.setdefault(key, []).append(len(self._kept))
    self._kept.append((shingles, here))
    return here


def _same(prompt: Prompt) -> bytes:
  return _digest([[m["role"], ngrams.plain(m["content"])]
                  for m in prompt.messages])


def _problem(prompt: Prompt) -> bytes:
  """A key that must be equal for near duplicates."""
  tested = prompt.verifier in _TESTED
  pattern = _NUMBER_OR_SIGN if tested else _NUMBER
  return _digest([prompt.verifier, None if tested else prompt.reference, [
      pattern.findall(m["content"]) for m in prompt.messages]])


def _digest(value: Any) -> bytes:
  text = json.dumps(value, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _shingles(prompts: Sequence[Prompt], limits: Limits,
              progress: Callable[[int], None]) -> list[np.ndarray]:
  """Sorted distinct n-grams of each prompt's messages, without boilerplate."""
  hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
  for start in range(0, len(prompts), _CHUNK):
    chunk = prompts[start:start + _CHUNK]
    grams = ngrams.grams(
        ["\n".join(m["content"] for m in p.messages) for p in chunk],
        limits.words)
    hashes.append(grams.hashes)
    owners.append(grams.owners + start)
    progress(len(chunk))
  hash_all, owner_all = np.concatenate(hashes), np.concatenate(owners)
  most = max(limits.least, limits.boilerplate * len(prompts))
  kept = ~ngrams.contains(
      ngrams.common(hash_all, owner_all, most), hash_all)
  hash_all, owner_all = hash_all[kept], owner_all[kept]
  ends = np.searchsorted(owner_all, np.arange(1, len(prompts)))
  return [np.unique(part) for part in np.split(hash_all, ends)][:len(prompts)]
