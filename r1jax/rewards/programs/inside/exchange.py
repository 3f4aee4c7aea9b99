"""Values across the wall of a sandbox: JSON that keeps exact types.

Used on both sides; inside, its text is part of what a sandbox starts with (see
harness.py), so it imports nothing but the standard library, and of that only
what is part of every interpreter: json, re and collections would take as long
as the rest of a start.
"""

from __future__ import annotations

import sys

MAX_NODES = 200_000  # values and eights of characters in one encoded value
MAX_DEPTH = 60
_PLAIN_INT = 1 << 53

_TAGS = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_MAKERS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_TYPES = {t.__name__: t for t in (
    bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)}
_MAPPINGS = ("Counter", "OrderedDict", "defaultdict")  # of collections
_ITERATORS = (type(_ for _ in ()), map, filter, zip, enumerate, reversed,
              type(iter([])), type(iter(())), type({}.keys()),
              type({}.values()), type({}.items()))


class _Reading:
  """What JSON's scanner in C asks for."""

  strict = True
  object_hook = object_pairs_hook = None
  parse_float = parse_constant = float
  parse_int = int


def _refused(value):
  raise TypeError(f"{type(value).__name__} is not JSON")


def coders():
  """`json.loads` and `json.dumps` of text, without the module if possible."""
  try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner
    scan = make_scanner(_Reading)
    encoder = make_encoder(None, _refused, encode_basestring_ascii, None, ": ",
                           ", ", False, False, True)

    def read(text):
      text = text.strip(" \t\r\n")
      try:
        value, end = scan(text, 0)
      except StopIteration:
        raise ValueError("no JSON") from None
      if end < len(text):
        raise ValueError("more than one value of JSON")
      return value

    def written(value):
      return "".join(encoder(value, 0))

    if read(written([{"a": 1.5}])) != [{"a": 1.5}]:
      raise TypeError("another _json")
  except (ImportError, TypeError, AttributeError):
    import json
    return json.loads, json.dumps
  return read, written


loads, dumps = coders()


class Opaque:
  """Something of a program that is no plain value; it equals nothing.

  Attributes:
    handle: by which the program's side knows it.
    match: whether it is what a regular expression found, so true.
  """

  def __init__(self, handle, match=False):
    self.handle = handle
    self.match = match


class TooLarge(Exception):
  """A value that is too large, too deep or endless."""


def encode(value, keep):
  """A plain value as JSON that keeps its exact type.

  None, booleans, floats, strings and integers below 2**53 stand for themselves;
  the rest is [type, ...]. Only the builtin types themselves count, no
  subclasses (an integer may not bring its own `==`). Counter, OrderedDict and
  defaultdict, which compare as dictionaries do, become dictionaries; what numpy
  computes becomes numbers and lists.

  Args:
    value: what to send.
    keep: called with anything else; returns the handle to send in its place.

  Raises:
    TooLarge: more than 200,000 values, deeper than 60, or an endless iterator.
  """
  left = MAX_NODES
  # What was not imported made no value.
  collections, re = map(sys.modules.get, ("collections", "re"))
  mappings = (dict, *(getattr(collections, n, None) for n in _MAPPINGS))
  match = getattr(re, "Match", None)

  def walk(value, depth):
    nonlocal left
    kind = type(value)
    left -= 1 + (len(value) // 8 if kind in (str, bytes) else
                 value.bit_length() // 64 if kind is int else 0)
    if left < 0 or depth > MAX_DEPTH:
      raise TooLarge
    if value is None or kind in (bool, float, str):
      return value
    if kind is int:
      return value if abs(value) < _PLAIN_INT else ["int", hex(value)]
    if kind in _TAGS:
      return [_TAGS[kind], [walk(v, depth + 1) for v in value]]
    if kind in mappings:
      return ["dict", [[walk(k, depth + 1), walk(v, depth + 1)]
                       for k, v in dict.items(value)]]
    if kind is bytes:
      return ["bytes", value.hex()]
    if kind is complex:
      return ["complex", value.real, value.imag]
    if kind is range:
      return ["range", value.start, value.stop, value.step]
    if kind in _ITERATORS:
      return ["iterator", [walk(v, depth + 1) for v in value]]
    if kind.__module__ == "numpy" and hasattr(kind, "tolist"):
      return walk(value.tolist(), depth + 1)
    if kind is type and _TYPES.get(value.__name__) is value:
      return ["type", value.__name__]
    return ["opaque", keep(value), kind is match]

  return walk(value, 0)


def decode(tree, opaque=Opaque, iterator=list, depth=0):
  """The value of a JSON tree made by `encode`, which may be forged.

  Args:
    tree: parsed JSON.
    opaque: makes a value of a handle (a string or an integer) and of whether
      it is the match of a regular expression.
    iterator: makes a value of the list of what an iterator gave.
    depth: how deep in the tree.

  Raises:
    ValueError: no `encode` makes such a tree.
  """
  if depth > MAX_DEPTH:
    raise ValueError("deeper than any encoded value")
  if tree is None or type(tree) in (bool, int, float, str):
    return tree

  def items(trees):
    return [decode(t, opaque, iterator, depth + 1) for t in trees]

  try:
    tag, *rest = tree
    if tag in _MAKERS:
      return _MAKERS[tag](items(*rest))
    if tag == "dict":
      return {k: v for k, v in map(items, *rest)}
    if tag == "iterator":
      return iterator(items(*rest))
    if tag == "opaque":
      handle, match = rest
      return opaque(
          handle if type(handle) is int else str(handle), match is True)
    if tag == "type":
      return _TYPES[rest[0]]
    maker = {"int": lambda text: int(text, 16), "bytes": bytes.fromhex,
             "complex": complex, "range": range}[tag]
    return maker(*rest)
  except (TypeError, KeyError, IndexError) as error:
    raise ValueError(f"not an encoded value: {str(tree)[:80]}") from error
