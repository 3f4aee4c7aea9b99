"""Import and export: values, bytes, places, memory and everything amiss."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from r1jax.checkpoint import hf_config, hf_files, hf_io, trees
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.sharding import rules
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import weights
from tests.checkpoint import hf_cases
from tests.models import cases

CONFIGS = {"v3": cases.V3, "v2": cases.V2, "qwen2": cases.DENSE,
           "qwen3": cases.QWEN3}
DTYPES = {"bfloat16": hf_cases.BF16, "float32": np.dtype(np.float32)}


def model(cfg, param_dtype="float32"):
  return build(cfg, Compute(param_dtype=param_dtype))


@pytest.fixture(scope="module")
def v3(tmp_path_factory):
  """(tensors, folder) of a DeepSeek-V3 in bfloat16, in three files."""
  made = hf_cases.tensors(cases.V3)
  folder = tmp_path_factory.mktemp("v3") / "model"
  return made, hf_cases.write(folder, made, files=3)


@pytest.fixture
def copy(v3, tmp_path):
  """A copy of the folder that may be damaged."""
  return pathlib.Path(shutil.copytree(v3[1], tmp_path / "copy"))


def fails(folder, cfg, *messages):
  with pytest.raises(ValueError) as caught:
    hf_io.load(folder, model(cfg))
  for message in messages:
    assert message in str(caught.value), caught.value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_import_and_export_are_byte_equal(name, dtype, tmp_path):
  cfg = CONFIGS[name]
  made = hf_cases.tensors(cfg, DTYPES[dtype])
  folder = hf_cases.write(tmp_path / "in", made, files=2)
  params, bias = hf_io.load(folder, model(cfg, dtype))
  hf_io.save(tmp_path / "out", cfg, params, bias, dtype=dtype,
             shard_bytes=2e4, fields={"a": 1})
  assert hf_cases.read(tmp_path / "out") == hf_cases.described(made)
  assert json.loads((tmp_path / "out/config.json").read_text()) == {"a": 1}


def test_values_are_where_the_model_expects_them(v3):
  """One element of each kind, by the definition of the tensor."""
  made, folder = v3
  params, bias = hf_io.load(folder, model(cases.V3))
  cfg = cases.V3
  head = cfg.nope_dim + cfg.rope_dim
  x = {n: a.astype(np.float32) for n, a in made.items()}
  mixture, mtp = params["mixture_blocks"], params["mtp"]
  layer = "model.layers.2."  # the second mixture
  for found, name, at in [
      (params["embed"][5, 3], "model.embed_tokens.weight", (5, 3)),
      (params["w_head"][3, 5], "lm_head.weight", (5, 3)),
      (params["dense_blocks"]["ffn"]["w_up"][0, 3, 7],
       "model.layers.0.mlp.up_proj.weight", (7, 3)),
      (mixture["attn"]["w_uq"][1, 2, 3, 4],
       layer + "self_attn.q_b_proj.weight", (3 * head + 4, 2)),
      (mixture["attn"]["w_o"][1, 3, 4, 2],
       layer + "self_attn.o_proj.weight", (2, 3 * cfg.v_dim + 4)),
      (mixture["ffn"]["w_down"][1, 6, 4, 2],
       layer + "mlp.experts.6.down_proj.weight", (2, 4)),
      (mixture["ffn"]["w_router"][1, 2, 6], layer + "mlp.gate.weight", (6, 2)),
      (mtp["w_join"][30, 2], "model.layers.3.eh_proj.weight", (2, 30)),
      (mtp["block"]["ffn"]["w_gate"][6, 2, 4],
       "model.layers.3.mlp.experts.6.gate_proj.weight", (4, 2)),
      (bias[1, 6], layer + "mlp.gate.e_score_correction_bias", (6,)),
      (bias[2, 6], "model.layers.3.mlp.gate.e_score_correction_bias", (6,))]:
    assert found == x[name][at], name
  assert params["embed"].dtype == jnp.float32


def test_parameters_are_cast_and_the_router_is_float32(v3):
  params, bias = hf_io.load(v3[1], model(cases.V3, "bfloat16"))
  kinds = {n: x.dtype for n, x in trees.flatten(params).items()}
  wide = {n for n, kind in kinds.items() if kind == jnp.float32}
  assert wide == {"mixture_blocks.ffn.w_router", "mtp.block.ffn.w_router"}
  assert set(kinds.values()) == {jnp.dtype("float32"), jnp.dtype("bfloat16")}
  assert bias.dtype == jnp.float32


def test_what_is_not_trained_comes_in_the_dtype_of_computing(v3):
  """Bit for bit what casting makes of it, and never more."""
  compute = build(cases.V3, Compute(dtype="bfloat16"))
  wide, _ = hf_io.load(v3[1], compute)
  found, _ = hf_io.load(v3[1], compute, computing=True)
  want = compute.cast(wide)
  jax.tree.map(np.testing.assert_array_equal, found, want)
  assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(
      lambda x: x.dtype, want)
  assert found["embed"].dtype == "bfloat16"
  assert found["norm"].dtype == "float32"


@pytest.mark.parametrize("mesh", [
    MeshConfig(data=2, fsdp=2, expert=2, tensor=1),
    MeshConfig(data=1, fsdp=4, expert=2, tensor=1)])
def test_shards_are_those_of_the_mesh(v3, mesh, tmp_path):
  mesh, compute = make_mesh(mesh), model(cases.V3)
  whole, whole_bias = hf_io.load(v3[1], compute)
  placed = rules.param_shardings(compute.param_axes(), whole, mesh)
  seen = []
  params, bias = hf_io.load(v3[1], compute, placed,
                            report=lambda *at: seen.append(at))
  jax.tree.map(np.testing.assert_array_equal, params, whole)
  np.testing.assert_array_equal(bias, whole_bias)
  assert jax.tree.map(lambda x: x.sharding, params) == placed
  assert bias.sharding.is_fully_replicated
  assert len(bias.sharding.device_set) == 8
  assert seen[-1][0] == seen[-1][1] == bias.nbytes + sum(
      x.nbytes for x in jax.tree.leaves(params))
  hf_io.save(tmp_path / "out", cases.V3, params, bias, fields={})
  assert hf_cases.read(tmp_path / "out") == hf_cases.described(v3[0])


def test_only_what_a_device_holds_is_read(v3, monkeypatch):
  compute = model(cases.V3)
  mesh = make_mesh(MeshConfig(data=1, fsdp=1, expert=8, tensor=1))
  placed = rules.param_shardings(
      compute.param_axes(), jax.eval_shape(compute.init, jax.random.key(0)),
      mesh)
  times, read = {}, hf_files.Folder.read

  def counted(self, name, index):
    times[name] = times.get(name, 0) + 1
    return read(self, name, index)

  monkeypatch.setattr(hf_files.Folder, "read", counted)
  hf_io.load(v3[1], compute, placed)
  experts = {n: k for n, k in times.items() if ".experts." in n}
  assert len(experts) == 3 * 8 * 3 and set(experts.values()) == {1}
  assert times["model.norm.weight"] == 1  # once for all of its replicas


def test_chunks_make_no_difference(v3, monkeypatch):
  whole, _ = hf_io.load(v3[1], model(cases.V3))
  monkeypatch.setattr(hf_io, "_CHUNK", 500)
  params, _ = hf_io.load(v3[1], model(cases.V3))
  jax.tree.map(np.testing.assert_array_equal, params, whole)


@pytest.mark.parametrize("name", CONFIGS)
def test_pieces_make_no_difference(name, tmp_path, monkeypatch):
  cfg = CONFIGS[name]
  folder = hf_cases.write(tmp_path / "m", hf_cases.tensors(cfg))
  whole, put, pieces = hf_io.load(folder, model(cfg)), hf_io._put, []
  monkeypatch.setattr(hf_io, "_PIECE", 500)
  monkeypatch.setattr(hf_io, "_put", lambda made, part, at: (
      pieces.append(part) or put(made, part, at)))
  jax.tree.map(np.testing.assert_array_equal, hf_io.load(folder, model(cfg)),
               whole)
  assert len(pieces) > 100


def test_shard_files_and_index(v3, tmp_path):
  params, bias = hf_io.load(v3[1], model(cases.V3, "bfloat16"))
  hf_io.save(tmp_path / "one", cases.V3, params, bias, fields={})
  assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
      "config.json", "model.safetensors"]
  hf_io.save(tmp_path / "two", cases.V3, params, bias, fields={},
             shard_bytes=30_000, extras={"README.md": b"hello"})
  files = sorted((tmp_path / "two").glob("*.safetensors"))
  sizes = [sum(len(data) for _, _, data in hf_cases.read_file(p).values())
           for p in files]
  assert max(sizes) <= 30_000 and len(files) > 2
  index = json.loads((tmp_path / "two" / hf_files.INDEX).read_text())
  assert index["metadata"]["total_size"] == sum(sizes)
  assert [p.name for p in files] == sorted(set(index["weight_map"].values()))
  assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
  assert set(index["weight_map"]) == set(v3[0])
  assert (tmp_path / "two/README.md").read_bytes() == b"hello"


def test_float16_and_old_buffers(tmp_path):
  made = hf_cases.tensors(cases.QWEN3, np.float16)
  extra = made | {"model.layers.0.self_attn.rotary_emb.inv_freq":
                  np.ones(4, np.float32)}
  folder = hf_cases.write(tmp_path / "m", extra)
  params, _ = hf_io.load(folder, model(cases.QWEN3))
  np.testing.assert_array_equal(
      params["w_head"], made["lm_head.weight"].astype(np.float32).T)


def test_a_header_of_odd_length(tmp_path):
  """Only newer writers pad it; tensors then begin anywhere."""
  made = hf_cases.tensors(cases.QWEN3)
  path = hf_cases.write(tmp_path / "m", made) / "model.safetensors"
  data = path.read_bytes()
  length = int.from_bytes(data[:8], "little")
  header = data[8:8 + length].rstrip()
  header += b" " * (1 - len(header) % 2)
  assert len(header) % 2
  path.write_bytes(
      len(header).to_bytes(8, "little") + header + data[8 + length:])
  params, _ = hf_io.load(tmp_path / "m", model(cases.QWEN3))
  np.testing.assert_array_equal(
      params["w_head"], made["lm_head.weight"].astype(np.float32).T)


def test_a_tied_head_may_be_repeated_but_not_differ(tmp_path):
  made = hf_cases.tensors(cases.DENSE)
  embed = made["model.embed_tokens.weight"]
  same = hf_cases.write(tmp_path / "same", made | {"lm_head.weight": embed})
  hf_io.load(same, model(cases.DENSE))
  other = hf_cases.write(
      tmp_path / "other", made | {"lm_head.weight": embed + embed})
  fails(other, cases.DENSE,
        "lm_head.weight differs from model.embed_tokens.weight")


def test_copies_of_mtp_may_be_absent_but_not_differ(v3, tmp_path):
  made = dict(v3[0])
  name = "model.layers.3.shared_head.head.weight"
  made[name] = made[name].copy()
  made[name][60, 23] = 9.0
  fails(hf_cases.write(tmp_path / "a", made), cases.V3,
        f"{name} differs from lm_head.weight")
  del made[name], made["model.layers.3.embed_tokens.weight"]
  hf_io.load(hf_cases.write(tmp_path / "b", made), model(cases.V3))


def test_all_that_does_not_fit_is_listed_at_once(v3, tmp_path):
  made = dict(v3[0])
  del made["model.layers.1.mlp.experts.6.up_proj.weight"]
  made["model.layers.0.mlp.gate.weight"] = np.ones((8, 24), np.float32)
  made["lm_head.weight"] = np.ones((61, 25), np.float32)
  made["model.norm.weight"] = np.ones(24, np.int32)
  folder = hf_cases.write(tmp_path / "m", made)
  fails(folder, cases.V3, str(folder),
        "missing: model.layers.1.mlp.experts.6.up_proj.weight (9, 24)",
        "superfluous: model.layers.0.mlp.gate.weight (8, 24)",
        "different: lm_head.weight is (61, 25), wanted (61, 24)",
        "different: model.norm.weight is stored as I32",
        "weights and config.json of the same model")
  with pytest.raises(ValueError) as caught:
    hf_io.load(folder, model(cases.V3))
  assert "multi-token" not in str(caught.value)
  del made["model.layers.3.enorm.weight"]
  fails(hf_cases.write(tmp_path / "n", made), cases.V3,
        "missing: model.layers.3.enorm.weight (24,)",
        "model.layers.3.* is the multi-token prediction module")


def test_a_layer_of_prediction_that_was_never_saved(v3, tmp_path, caplog):
  """As transformers writes DeepSeek-V3: a config with it, weights without."""
  cfg = cases.V3
  assert hf_io.without_absent_mtp(v3[1], cfg) == cfg
  assert hf_io.without_absent_mtp(tmp_path, cfg) == cfg  # nothing to judge by
  made = {name: x for name, x in v3[0].items()
          if not name.startswith(f"model.layers.{cfg.n_layers}.")}
  folder = hf_cases.write(tmp_path / "m", made)
  without = hf_io.without_absent_mtp(folder, cfg)
  assert without == dataclasses.replace(cfg, n_mtp=0)
  hf_io.load(folder, model(without))
  fields = hf_config.to_hf(cfg, "deepseek_v3", bos_id=0, eos_ids=[1])
  (folder / "config.json").write_text(json.dumps(fields))
  weights._say.cache_clear()
  for _ in range(2):
    assert weights.config_of(f"hf:{folder}").n_mtp == 0
  said = [r.getMessage() for r in caplog.records if "without it" in r.message]
  assert len(said) == 1 and "its weights are missing" in said[0]


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/dev/zero",
                                  "a/b.safetensors", "..", "", 7, None])
def test_an_index_names_files_of_its_own_folder(copy, name):
  index = json.loads((copy / hf_files.INDEX).read_text())
  index["weight_map"]["lm_head.weight"] = name
  (copy / hf_files.INDEX).write_text(json.dumps(index))
  fails(copy, cases.V3, f"names [{name!r}], not a file in its own folder")


@pytest.mark.parametrize("which", ["model-00002-of-00003.safetensors",
                                   hf_files.INDEX])
def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(copy, which):
  (copy / which).unlink()
  os.mkfifo(copy / which)
  fails(copy, cases.V3, "which is not a file there" if "model-" in which
        else "has neither model.safetensors nor")


def test_links_to_files_are_files(copy, tmp_path):
  """The cache of huggingface_hub is made of them."""
  file = copy / "model-00002-of-00003.safetensors"
  (tmp_path / "blob").write_bytes(file.read_bytes())
  file.unlink()
  file.symlink_to(tmp_path / "blob")
  hf_io.load(copy, model(cases.V3))


def test_a_pointer_of_git_lfs(copy):
  file = copy / "model-00002-of-00003.safetensors"
  file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
  fails(copy, cases.V3, f"{file} is truncated", "run git lfs pull")


def test_damaged_folders_are_named(copy, tmp_path):
  second = copy / "model-00002-of-00003.safetensors"
  whole = second.read_bytes()
  for kept in (5, 60, -4):
    second.write_bytes(whole[:kept])
    fails(copy, cases.V3, f"{second} is truncated")
  second.unlink()
  fails(copy, cases.V3, f"names {second.name}, which is not a file there")
  second.write_bytes((copy / "model-00001-of-00003.safetensors").read_bytes())
  fails(copy, cases.V3, f"says that {second.name} holds", "download them again")
  (copy / hf_files.INDEX).write_text("{")
  fails(copy, cases.V3, "is not valid JSON")
  (copy / hf_files.INDEX).write_text("{}")
  fails(copy, cases.V3, "has no weight_map")
  fails(tmp_path, cases.V3, f"{tmp_path} has neither model.safetensors nor")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, hf_cases.BF16])
def test_values_that_are_not_finite_are_named(tmp_path, bad, dtype):
  made = hf_cases.tensors(cases.QWEN3, dtype)
  name = "model.layers.1.self_attn.k_norm.weight"
  made[name][3] = bad
  fails(hf_cases.write(tmp_path / "m", made), cases.QWEN3,
        f"{name} in", "NaN or infinite")


def test_bad_arguments_of_export(v3, tmp_path):
  params, bias = hf_io.load(v3[1], model(cases.V3))
  def save(name, *arrays, **kwargs):
    hf_io.save(tmp_path / name, cases.V3, *arrays, fields={}, **kwargs)
  with pytest.raises(ValueError, match="dtype='int8'"):
    save("a", params, bias, dtype="int8")
  with pytest.raises(ValueError, match="shard_bytes=0"):
    save("a", params, bias, shard_bytes=0)
  other = {k: v for k, v in params.items() if k != "norm"}
  with pytest.raises(ValueError, match="missing: norm"):
    save("a", other, bias)
  with pytest.raises(ValueError, match="different: router_bias_LE is"):
    save("a", params, bias[:1])
  save("a", params, bias)
  before = hf_cases.read(tmp_path / "a")
  with pytest.raises(ValueError, match="is in use already"):
    save("a", params, bias, dtype="float32")
  assert hf_cases.read(tmp_path / "a") == before
  assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_nothing(v3, tmp_path, monkeypatch):
  params, bias = hf_io.load(v3[1], model(cases.V3))
  real, calls = safetensors.numpy.save_file, []

  def full(*args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
      raise safetensors.SafetensorError(
          "I/O error: No space left on device (os error 28)")
    real(*args, **kwargs)

  monkeypatch.setattr(safetensors.numpy, "save_file", full)
  with pytest.raises(OSError, match="free some space") as caught:
    hf_io.save(tmp_path / "a", cases.V3, params, bias, fields={},
               shard_bytes=3e4)
  assert caught.value.errno == errno.ENOSPC and len(calls) == 2
  assert not list(tmp_path.iterdir())
  free = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
  with pytest.raises(OSError, match="free some space"):
    hf_io.save(tmp_path / "a", cases.V3, params, bias, fields={})
  assert len(calls) == 2 and not list(tmp_path.iterdir())


def test_export_fetches_one_file_at_a_time(v3, tmp_path, monkeypatch):
  params, bias = hf_io.load(v3[1], model(cases.V3, "bfloat16"))
  fetched, written = [], []
  fetch, save_file = hf_io._fetch, safetensors.numpy.save_file

  def counting_fetch(leaf, at):
    fetched.append(at)
    return fetch(leaf, at)

  def counting_save(tensors, *args):
    written.append((len(tensors), len(fetched)))
    save_file(tensors, *args)

  monkeypatch.setattr(hf_io, "_fetch", counting_fetch)
  monkeypatch.setattr(safetensors.numpy, "save_file", counting_save)
  hf_io.save(tmp_path / "out", cases.V3, params, bias, fields={},
             shard_bytes=3e4)
  held = [count for count, _ in written]
  assert len(held) > 2
  assert [seen for _, seen in written] == np.cumsum(held).tolist()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("gb, margin", [
    (0.5, 64), pytest.param(2, 1024, marks=pytest.mark.slow)])
def test_host_memory_stays_below_one_shard_and_a_margin(gb, margin):
  """Onto 8 devices; a whole leaf at once would take 160 MB of the 0.5 GB."""
  done = subprocess.run(
      [sys.executable, "-m", "experiments.benchmarks.import_memory",
       f"--gb={gb}", f"--margin_mb={margin}", "--json"], capture_output=True,
      text=True, cwd=pathlib.Path(__file__).parents[2])
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  # Most of a GB is 954 MiB; an expert's matrices are split eight ways.
  assert found["params_mb"] > 900 * gb and found["shard_mb"] < 50 * gb
  assert found["extra_mb"] < found["shard_mb"] + margin
