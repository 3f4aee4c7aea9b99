"""The samples of two processes, each with rows and a queue of its own."""

import json

import numpy as np
import pytest

from tests import processes
from tests.rollout import cluster


@pytest.mark.slow
def test_two_processes_draw_what_one_draws():
  started = processes.start(2, 2, "-m", "tests.rollout.cluster")
  made, *rest = cluster.engine()
  want = cluster.drawn(made, cluster.PROMPTS, range(4), *rest)
  found = {name: {} for name in (*cluster.MESHES, "late 0", "late 1")}
  for line in processes.results(started):
    name, drawn = json.loads(line)
    found[name] |= drawn
  cut = [0, 0]
  for number in range(2):
    late = found.pop(f"late {number}")
    assert len(late) == 2
    for address, samples in late.items():
      for (ids, _), (whole, _) in zip(samples, want[address], strict=True):
        assert 0 < len(ids) and ids == whole[:len(ids)]
        cut[number] += len(ids) < len(whole)
  assert cut[0] and not cut[1]
  for drawn in found.values():
    assert drawn.keys() == want.keys()
    for address, samples in want.items():
      for (ids, logprobs), (got, near) in zip(
          samples, drawn[address], strict=True):
        assert got == ids
        np.testing.assert_allclose(near, logprobs, rtol=0, atol=1e-5)
