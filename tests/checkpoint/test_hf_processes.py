"""Two processes read one Hugging Face folder into one mesh."""

import json
import socket

import jax
import pytest

from r1jax.checkpoint import hf_config, hf_io
from r1jax.models import presets
from r1jax.models.model import build
from tests.sharding import test_distributed

CHILD = """
import json, sys
import jax, numpy as np
from r1jax.checkpoint import hf_files
from r1jax.models.compute import Compute
from r1jax.sharding import distributed, mesh
from r1jax.stages import weights

folder, coordinator, number = sys.argv[1:]
distributed.initialize(distributed.DistributedConfig(
    coordinator=coordinator, processes=2, process=int(number)))
read, part = [0], hf_files.Folder._part

def counted(self, name, index):
  found = part(self, name, index)
  read[0] += found.nbytes
  return found

hf_files.Folder._part = counted
load = lambda mesh: weights.load("hf:" + folder, Compute(), None, mesh)
split = load(mesh.make_mesh(mesh.MeshConfig(data=1, fsdp=4)))
ours, read[0] = read[0], 0
whole = load(None)

def check(a, b):
  for shard in a.addressable_shards:
    np.testing.assert_array_equal(shard.data, np.asarray(b)[shard.index])
  return 1

trees = [(w.params, w.router_bias_LE) for w in (split, whole)]
print("RESULT", json.dumps({
    "devices": jax.device_count(), "ours": ours, "whole": read[0],
    "leaves": sum(jax.tree.leaves(jax.tree.map(check, *trees)))}))
"""


@pytest.fixture
def folder(tmp_path):
  cfg = presets.get("base-arith")
  model = build(cfg)
  params = jax.jit(model.init)(jax.random.key(0))
  hf_io.save(tmp_path / "hf", cfg, params, model.init_router_bias(),
             fields=hf_config.to_hf(cfg, "deepseek_v3", bos_id=0, eos_ids=(1,)),
             dtype="float32")
  return tmp_path / "hf"


def test_each_reads_what_its_devices_hold(folder, monkeypatch):
  monkeypatch.setattr(test_distributed, "CHILD", CHILD)
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  lines = test_distributed.finish(*(
      test_distributed.start(str(folder), address, str(i)) for i in range(2)))
  for line in lines:
    found = json.loads(line.removeprefix("RESULT "))
    assert found["devices"] == 4 and found["leaves"] > 20
    # Half, the few leaves that every device has whole, and the comparison of
    # the MTP module's embedding and head with the main ones.
    assert found["whole"] / 2 < found["ours"] < 0.75 * found["whole"], found
  assert len(lines) == 2
