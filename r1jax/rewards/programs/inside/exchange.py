"""Encodes values as JSON that keeps exact types, to cross the sandbox's border.

Used on both sides. Inside, its text is a part of the program that a sandbox
starts with (see harness.py). So it imports only modules that every interpreter
has loaded: importing json, re and collections would double the start-up time.
"""

from __future__ import annotations

import sys

MAX_NODES = 200_000  # most values (8 characters count as one) when encoded
MAX_DEPTH = 60  # most levels of nesting
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
  """The settings that JSON's C scanner reads."""

  strict = True
  object_hook = object_pairs_hook = None
  parse_float = parse_constant = float
  parse_int = int


def _refused(value):
  raise TypeError(f"{type(value).__name__} is not JSON")


def coders():
  """(`json.loads`, `json.dumps`), without importing json if possible."""
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
  """An object of a program that is no plain value; it equals nothing.

  Attributes:
    handle: identifies it in the program's sandbox.
    match: whether it is the match of a regular expression, which is true.
  """

  def __init__(self, handle, match=False):
    self.handle = handle
    self.match = match


class TooLarge(Exception):
  """A value that is too large, too deeply nested or endless."""


def encode(value, keep):
  """A plain value as JSON that keeps its exact type.

  None, booleans, floats, strings and integers below 2**53 are themselves;
  other values are [type, ...]. Only builtin types are plain values, not their
  subclasses (whose `==` could be overridden). Counter, OrderedDict and
  defaultdict, which compare like dictionaries, become dictionaries; values of
  numpy become numbers and lists.

  Args:
    value: what to send.
    keep: called with any other object; returns a handle to send instead.

  Raises:
    TooLarge: more than `MAX_NODES` values, deeper than `MAX_DEPTH`, or an
      endless iterator.
  """
  left = MAX_NODES
  # No value can be of a module that was not imported.
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
    opaque: makes a value from (handle, match), see `Opaque`; the handle is a
      string or an integer.
    iterator: makes a value from the list of an iterator's items.
    depth: level of nesting of `tree`.

  Raises:
    ValueError: `encode` does not make such a tree.
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
