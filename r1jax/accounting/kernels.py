"""Costs of Pallas kernels that state none, from the shapes of their operands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from r1jax.ops import paged

Dims = tuple[int, ...]

# Splash attention by pass: the number of products of the key's width, and of
# the value's width, for every pair of query and key.
_SPLASH = {"fwd": (1, 1), "dq": (2, 1), "dkv": (2, 2)}
# In a loop over rows the kernel loses its name but keeps its `op_name`.
_SPLASH_NAME = re.compile(r"splash_m[hq]a_(fwd|dq|dkv)")
_PAGED_NAME = "ragged_paged_attention"


def splash(text: str, operands: Sequence[tuple[str, Dims]]) -> float | None:
  """FLOPs of a causal attention kernel: half of all pairs; None for others.

  Args:
    text: name and attributes of the instruction.
    operands: (dtype, dims) of each.
  """
  found = _SPLASH_NAME.search(text)
  if not found or "tpu_custom_call" not in text:
    return None
  q, k, v = [dims for dtype, dims in operands
             if len(dims) >= 3 and dtype in ("bf16", "f32")][:3]
  keys, values = _SPLASH[found[1]]
  pairs = math.prod(q[:-1]) * k[-2]
  return 0.5 * 2 * pairs * (keys * q[-1] + values * v[-1])


def is_paged(text: str) -> bool:
  """Whether a custom call is the kernel of `ops.paged`, by the same text."""
  return _PAGED_NAME in text and "tpu_custom_call" in text


def paged_attention(indices: Dims, queries: Dims, cache: Dims, blocks: float
                    ) -> tuple[float, float]:
  """(FLOPs, slots of the cache that are read) of the kernel of `ops.paged`.

  A row's blocks are read once for each block of its queries.

  Args:
    indices: [rows, pages of a row].
    queries: [tokens of all rows, heads, width].
    cache: [pages, slots of a page, ...].
    blocks: that a row has on average.
  """
  rows, per_row = indices
  tokens, heads, width = queries
  slots = blocks * cache[1] * paged.pages(cache[1] * per_row)[1]
  passes = -(-tokens // (rows * paged.queries(tokens // rows, heads)))
  return 2 * 2 * tokens * heads * width * slots, rows * passes * slots
