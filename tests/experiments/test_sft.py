"""train_sft and export_lora as users type them, and bad input."""

import json

import pytest
import safetensors.numpy

from r1jax.report import writer
from tests.experiments.calls import calls
from tests.experiments.test_commands import TINY, fails, succeeds


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Files of 12 good rows, one too long row among them, and bad ones."""
  folder = tmp_path_factory.mktemp("sft")
  rows = [{"prompt": f"What is {i} + 2?", "completion": f"{i + 2}" + " so" * (
      400 * (i == 5)), "source": ("math", "code")[i % 2]} for i in range(12)]
  for name, extra in (("good", []), ("empty", [rows[0] | {"completion": ""}]),
                      ("bad", [{"prompt": "x"}])):
    (folder / f"{name}.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows + extra))
  return folder


def test_an_adapter_is_trained_exported_and_read_back(
    data, model_file, tmp_path):
  run, out = tmp_path / "run", tmp_path / "hf"
  good = data / "good.jsonl"
  shared = [f"--init=file:{model_file}", f"--sft_data={good}", "--rows=4",
            "--row_length=128", f"--workdir={run}"]
  first, again, other = calls(
      "experiments.train_sft",
      [*shared, "--lora.rank=2", f"--held_out={good}", f"--export={out}",
       "--source_weights=math:2,code:0.5"],
      [*shared, "--lora.rank=2", f"--export={out}",
       f"--workdir={tmp_path / 'other'}"],
      [*shared, "--lora.rank=3", f"--held_out={good}"])
  text = succeeds(first)
  assert "11 examples" in text and "1 examples are longer than a row" in text
  assert f"wrote {out}" in text
  row = writer.read(run)[-1]
  assert row["eval/cross_entropy"] > 0 and row["skipped"] == 0
  fails(again, f"{out} is in use already")
  fails(other, "was made by another config", "lora.rank: 2 -> 3",
        "source_weights.math: 2.0 -> None")
  peft, = calls("experiments.export_lora",
                [f"--init=orbax:{run}", f"--out={tmp_path / 'peft'}"])
  succeeds(peft)
  tensors = safetensors.numpy.load_file(
      tmp_path / "peft/adapter_model.safetensors")
  assert tensors["base_model.model.model.layers.0.self_attn.q_proj"
                 ".lora_A.weight"].shape[0] == 2
  from_run, from_hf = calls(
      "experiments.sample", *(
          [f"--init={init}", "--max_new_tokens=4", "--template=plain",
           "--question=What is 2 + 2?", "--temperature=0"]
          for init in (f"orbax:{run}", f"hf:{out}")))
  assert succeeds(from_run) and succeeds(from_hf)


def test_bad_input(data, model_file, tmp_path):
  shared = [f"--init=file:{model_file}", f"--workdir={tmp_path / 'run'}",
            "--row_length=128"]
  (tmp_path / "mine").write_text("mine")
  bad = {
      "--sft_data=FILE.jsonl must be given": ["--sft_data= , "],
      "/run is the folder of the run, or one above it": [
          f"--export={tmp_path}/run"],
      f"--export={tmp_path} is the folder of the run, or one above": [
          f"--export={tmp_path}"],
      "gs://bucket/x: a model is written to a local folder": [
          "--export=gs://bucket/x"],
      # Not only after all steps.
      f"could not write {tmp_path}/mine/hf: Not a directory; a file has the": [
          f"--export={tmp_path}/mine/hf"],
      "/nowhere cannot be read": ["--sft_data=/nowhere"],
      "empty.jsonl:13: an answer is empty": [f"--sft_data={data}/empty.jsonl"],
      "1 of 13 rows are malformed, more than 1%": [
          f"--sft_data={data}/bad.jsonl"],
      "good.jsonl:2: source 'code' has no weight": [
          f"--sft_data={data}/good.jsonl", "--source_weights=math:2"],
      "--source_weights names maths, which no row has": [
          f"--sft_data={data}/good.jsonl",
          "--source_weights=maths:2,math:1,code:1"],
      "'math' is not NAME:WEIGHT": [
          f"--sft_data={data}/good.jsonl", "--source_weights=math"],
      "targets=q,z: choose from": [
          f"--sft_data={data}/good.jsonl", "--lora.targets=q,z"],
      "the tokenizer has no chat template": [
          f"--sft_data={data}/good.jsonl", "--template=chat"]}
  done = calls("experiments.train_sft", *([*shared, *x] for x in bad.values()))
  for call, message in zip(done, bad, strict=True):
    fails(call, message)
  assert not (tmp_path / "run").exists()
  none, full = calls("experiments.export_lora", [],
                     [f"--init=orbax:{tmp_path / 'run'}",
                      f"--out={tmp_path / 'peft'}"])
  fails(none, "--out=DIR must be given")
  fails(full, "config.json does not exist")


def test_an_adapter_learns_from_rewards_and_is_exported(
    model_file, questions, cache, tmp_path):
  call, = calls(
      "experiments.train_grpo",
      [*TINY, f"--init=file:{model_file}", "--data=gsm8k",
       f"--data_dir={questions}", f"--workdir={tmp_path / 'run'}", "--steps=1",
       "--lora.rank=2", f"--export={tmp_path / 'hf'}"],
      XDG_CACHE_HOME=str(cache))
  assert f"wrote {tmp_path / 'hf'}" in succeeds(call)
  assert (tmp_path / "hf/model.safetensors").exists()
