"""Checks that a prompt's reference is what its verifier needs.

With a malformed reference no answer would get a verdict, in a whole run. Some
forms are normalised: a number becomes text, `\\boxed{5}` becomes 5, and the
reference of a choice may be only a letter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

_BOXED = re.compile(r"\s*\$*\\f?boxed\s*\{(.*)\}\$*\s*", re.DOTALL)
_KEYS = {  # {verifier: {key of its reference: type}}
    "code": {"kind": str},
    "bugfix": {"kind": str},
    "literal": {"value": str},
    "program_input": {"program": str, "function": str, "output": str},
    "drop": {"answers": list},
    "game24": {"numbers": list, "target": (int, float)},
    "request": {"wanted": list, "others": list, "polite": list, "count": int,
                "repeats": int, "language": str},
    "harm": {"harmful": bool, "jailbreak": bool, "refusals": list,
             "advice": list},
}
_KINDS = {  # {kind of tests: {further key of a program's reference: type}}
    "stdin": {"inputs": list, "outputs": list},
    "function": {"entry_point": str, "cases": list},
    "asserts": {"entry_point": str, "test": str},
}
# Equal to those of `rewards.programs`.
COMPARISONS = ("lines", "exact", "tokens", "decimals", "floats")
PACKAGES = ("numpy",)
_OTHER = ("math", "choice", "exact", "set", "grid", "puzzle", "instructions")
VERIFIERS = (*_OTHER, *_KEYS)


def checked(verifier: str, reference: Any) -> Any:
  """The reference, normalised for its verifier.

  An unknown verifier is assumed to be the user's own, unless its name is
  similar to one of VERIFIERS.

  Raises:
    ValueError: the verifier is misspelt, or cannot judge by this reference.
  """
  if not verifier:
    return reference
  if verifier not in VERIFIERS:
    near = difflib.get_close_matches(verifier, VERIFIERS, n=1, cutoff=0.75)
    if near:
      raise ValueError(
          f"verifier {verifier!r} is unknown; is {near[0]!r} meant?")
    return reference
  if verifier in ("math", "exact"):
    return _text(verifier, reference)
  if verifier == "choice":
    return _choice(reference)
  if verifier == "set":
    if not isinstance(reference, list) or not reference:
      raise _wrong(verifier, reference, "a list of texts")
    return [_text(verifier, item) for item in reference]
  if verifier == "grid" and not (
      isinstance(reference, Mapping) and reference
      and all(isinstance(row, Mapping) for row in reference.values())):
    raise _wrong(verifier, reference, "{row: {column: value}}")
  if verifier in _KEYS:
    _has(verifier, reference, _KEYS[verifier])
  if verifier in ("code", "bugfix"):
    kind = reference["kind"]
    if kind not in _KINDS:
      raise ValueError(f"verifier {verifier!r}: kind={kind!r} is not one of"
                       f" {', '.join(_KINDS)}")
    _has(verifier, reference, _KINDS[kind])
    packages = reference.get("packages", ())
    if not isinstance(packages, list | tuple) or {*packages} - {*PACKAGES}:
      raise ValueError(f"verifier {verifier!r}: packages={packages!r}; a"
                       f" sandbox can have a list of {', '.join(PACKAGES)}")
    how = reference.get("compare", COMPARISONS[0])
    if how not in COMPARISONS:
      raise ValueError(f"verifier {verifier!r}: compare={how!r} is not one of"
                       f" {', '.join(COMPARISONS)}")
  return reference


def _text(verifier: str, reference: Any) -> str:
  if isinstance(reference, int | float) and not isinstance(reference, bool):
    reference = str(reference)
  if not isinstance(reference, str) or not reference.strip():
    raise _wrong(verifier, reference, "a text that is not empty, or a number")
  if verifier == "math" and (match := _BOXED.fullmatch(reference)):
    reference = match.group(1).strip()
    if not reference:
      raise _wrong(verifier, reference, "something in its box")
  return reference


def _choice(reference: Any) -> dict[str, Any]:
  if isinstance(reference, str):
    reference = {"answer": reference}
  if not isinstance(reference, Mapping) or not isinstance(
      reference.get("answer"), str):
    raise _wrong("choice", reference, "{'answer': 'B', 'options': {...}}")
  letter = reference["answer"].strip(" ().").upper()
  options = reference.get("options") or {}
  if not re.fullmatch(r"[A-J]", letter):
    raise ValueError(f"verifier 'choice': the answer {letter!r} is no letter"
                     " from A to J")
  if not isinstance(options, Mapping) or not all(
      isinstance(text, str) for text in options.values()):
    raise _wrong("choice", reference, "options as {letter: text}")
  options = {name.strip(" ().").upper(): text
             for name, text in options.items()}
  if options and letter not in options:
    raise ValueError(f"verifier 'choice': the answer {letter!r} is not among"
                     f" the options {', '.join(options)}")
  return {**reference, "answer": letter, "options": options}


def _has(verifier: str, reference: Any, keys: Mapping[str, Any]) -> None:
  for key, kind in keys.items():
    if not isinstance(reference, Mapping) or not isinstance(
        reference.get(key), kind):
      raise _wrong(verifier, reference, "a mapping with "
                   + ", ".join(repr(k) for k in keys))


def _wrong(verifier: str, reference: Any, wanted: str) -> ValueError:
  return ValueError(f"verifier {verifier!r} cannot judge by the reference"
                    f" {str(reference)[:80]!r}; it needs {wanted}")
