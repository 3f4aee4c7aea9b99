"""Import and export as users type them, on a model of the tests."""

import json

import jax
import numpy as np
import pytest

from r1jax.models.compute import Compute
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import weights
from tests.checkpoint import hf_cases
from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds


@pytest.fixture(scope="module")
def exported(model_file, tmp_path_factory):
  """The folder that export_hf makes of the tests' own file of parameters."""
  out = tmp_path_factory.mktemp("exported") / "tiny"
  call, = calls("experiments.export_hf", [
      f"--init=file:{model_file}", f"--out={out}", "--shard_gb=0.00002"])
  assert f"--init=hf:{out}" in succeeds(call)
  return out


def test_what_is_exported(exported, model_file):
  files = {path.name for path in exported.iterdir()}
  shards = {name for name in files if name.endswith(".safetensors")}
  assert len(shards) > 1
  assert files - shards == {
      "config.json", "generation_config.json", "tokenizer.model", "README.md",
      "model.safetensors.index.json"}
  assert (exported / "tokenizer.model").read_bytes() == (
      weights.TOKENIZER.read_bytes())
  generation = json.loads((exported / "generation_config.json").read_text())
  fields = json.loads((exported / "config.json").read_text())
  for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    assert generation[name] == fields[name]
  card = (exported / "README.md").read_text()
  assert f"`file:{model_file}`" in card and '"d_model"' in card
  modes = {path.stat().st_mode & 0o777 for path in exported.iterdir()}
  assert len(modes) == 1  # the library would make private files


def test_it_reads_back_the_same_on_one_device_and_on_a_mesh(
    exported, model_file):
  key = jax.random.key(0)
  first = weights.load(f"file:{model_file}", Compute(), key)
  mesh = make_mesh(MeshConfig(data=2, fsdp=4))
  for found in (weights.load(f"hf:{exported}", Compute(), key),
                weights.load(f"hf:{exported}", Compute(), key, mesh)):
    assert found.model == first.model
    jax.tree.map(np.testing.assert_array_equal, found.params, first.params)
  # Of the last, on the mesh.
  assert found.params["norm"].sharding.mesh == mesh
  assert not found.params["embed"].sharding.is_fully_replicated


@pytest.fixture(scope="module")
def work(exported, tmp_path_factory):
  """(folder, imports, exports): all other calls, in few processes."""
  folder = tmp_path_factory.mktemp("work")
  empty, run = folder / "empty", folder / "run"
  empty.mkdir()
  tokenizer = f"--tokenizer={weights.TOKENIZER}"
  imports = calls(
      "experiments.import_hf", [f"--from={exported}", f"--workdir={run}"],
      [f"--from={exported}", f"--workdir={run}"], [f"--workdir={folder / 'a'}"],
      [f"--from={empty}", f"--workdir={folder / 'a'}"],
      [f"--from={empty}", f"--workdir={folder / 'a'}", tokenizer])
  (run / "metrics.jsonl").write_text(
      '{"step": 1, "eval/pass1": 0.25}\n{"step": 2, "eval/pass1": 0.5}\n'
      '{"step": 3, "loss": 1.0}\n')
  exports = calls(
      "experiments.export_hf",
      [f"--init=orbax:{run}", f"--out={folder / 'again'}"],
      [f"--init=orbax:{run}", f"--out={folder / 'again'}", "--fp8"],
      [f"--init=hf:{exported}", f"--out={folder / 'fp8'}", "--fp8"],
      [], [f"--out={folder / 'a'}", "--shard_gb=0"],
      [f"--out={folder / 'a'}", f"--init=hf:{empty}", tokenizer])
  return folder, imports, exports


def test_import_and_export_are_byte_equal(exported, work):
  folder, imports, exports = work
  run, again = folder / "run", folder / "again"
  assert f"--init=orbax:{run}" in succeeds(imports[0])
  fails(imports[1], "has a run or an import already", "another --workdir")
  succeeds(exports[0])
  fails(exports[1], f"{again} is in use already", "another folder")
  assert hf_cases.read(again) == hf_cases.read(exported)
  for name in ("config.json", "generation_config.json", "tokenizer.model"):
    assert (again / name).read_bytes() == (exported / name).read_bytes()
  card = (again / "README.md").read_text()
  assert "| step | 2 |" in card and "| eval/pass1 | 0.5 |" in card
  assert "imported_from" in card and "0.25" not in card


def test_fp8(exported, work):
  succeeds(work[2][2])
  out = work[0] / "fp8"
  kinds = {name: kind for name, (kind, *_) in hf_cases.read(out).items()}
  assert kinds["model.layers.0.mlp.up_proj.weight"] == "F8_E4M3"
  assert kinds["model.layers.0.mlp.up_proj.weight_scale_inv"] == "F32"
  assert kinds["model.embed_tokens.weight"] == "BF16"
  found = weights.load(f"hf:{out}", Compute(), jax.random.key(0))
  whole = weights.load(f"hf:{exported}", Compute(), jax.random.key(0))
  up, rounded = (w.params["dense_blocks"]["ffn"]["w_up"]
                 for w in (whole, found))
  largest = np.abs(up).max()
  assert 0 < np.abs(up - rounded).max() <= largest * 2.0 ** -4


def test_bad_input_is_one_message(work):
  folder, imports, exports = work
  empty = folder / "empty"
  fails(imports[2], "--from=DIR")
  fails(imports[3], f"{empty} has no config.json")
  fails(imports[4], f"{empty} has no config.json")
  fails(exports[3], "--out=DIR")
  fails(exports[4], "--shard_gb=0.0 must be positive")
  fails(exports[5], f"{empty} has no config.json")
  assert {path.name for path in folder.iterdir()} == {
      "empty", "run", "again", "fp8"}


def test_an_exported_model_answers_as_before(exported, model_file):
  asked = ["--question=What is 1 + 2?", "--max_new_tokens=8"]
  samples = calls("experiments.sample", [f"--init=hf:{exported}", *asked],
                  [f"--init=file:{model_file}", *asked])
  assert succeeds(samples[0]) == succeeds(samples[1])
