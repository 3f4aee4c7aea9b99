"""Programs are counted when JAX compiles them, and only then."""

import jax
import numpy as np

from r1jax.accounting.compilations import Compilations


def test_a_program_counts_once_for_each_shape():
  double = jax.jit(lambda x: 2 * x)
  with Compilations() as compiled:
    for length, programs in ((3, 1), (3, 0), (4, 1), (4, 0), (3, 0)):
      double(np.zeros(length, np.float32)).block_until_ready()
      counted = compiled.new()
      assert counted["compile/programs"] == programs
      assert (counted["compile/seconds"] > 0) == bool(programs)
  double(np.zeros(5, np.float32))
  assert not any(compiled.new().values())


def test_two_count_apart():
  triple = jax.jit(lambda x: 3 * x)
  with Compilations() as outer:
    with Compilations() as inner:
      triple(np.zeros(3, np.float32))
      assert inner.new()["compile/programs"] == 1
    triple(np.zeros(4, np.float32))
    assert outer.new()["compile/programs"] == 2
    assert not inner.new()["compile/programs"]
