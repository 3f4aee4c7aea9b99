"""What the tests of every generator share."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import sys

import pytest

MODULES = ("knights", "zebra", "gym", "functions", "units", "constraints",
           "ciphers")


def module(name):
  return importlib.import_module(f"r1jax.data.sources.generated.{name}")


@functools.cache
def rows(name, split):
  if name == "gym":
    pytest.importorskip("reasoning_gym")
  return tuple(module(name).prompts(split))


def digest(name, split):
  """Of every field of a split's rows."""
  listed = [dataclasses.asdict(prompt) for prompt in rows(name, split)]
  return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def respond(answer):
  from r1jax.rewards import response

  return response.split("<think>", f"so it is\n</think>\n{answer}")


if __name__ == "__main__":  # in a process of its own: digests by module
  print(json.dumps({name: digest(name, "test") for name in sys.argv[1:]}))
