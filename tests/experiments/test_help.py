"""--help shows the values that a run takes."""

import pathlib

import pytest

from tests.experiments import helps

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "experiments").rglob("*.py")
    if "flagset.define(" in path.read_text() and path.stem not in
    ("flagset", "start", "common"))
# Flags of many experiments, and those of them that each one reads. A flag that
# is in a help and does nothing is worse than none.
SHARED = {
    "model": "init tokenizer compute.dtype mesh.fsdp",
    "asked": "system",
    "data": "data data_dir",
    "trained": "skip_damaged",
    "joined": "distributed.heartbeat_timeout"}
OTHERS = ("mixture", "workdir", "out", "export", "sft_data", "reward_data",
          "held_out", "eval_data", "template", "distill.factor", "gamma",
          "bias_update_speed",
          # What other flags give: no experiment has these.
          "endpoint.url", "served.url", "served.temperature", "record_experts")
READS = {
    "build_data": "joined data_dir out",
    "cold_start": "model asked data joined template workdir",
    "compile_ahead": "init compute.dtype mesh.fsdp joined distill.factor",
    "distill": "model asked data trained joined template workdir export"
               " eval_data mixture distill.factor bias_update_speed",
    "evaluate": "model asked data joined template out",
    "evaluate_reward": "model joined template out reward_data",
    "evaluate_safety": "model asked data_dir joined template out",
    "export_hf": "model joined out",
    "export_lora": "init joined out",
    "files": "",
    "filter_sft": "joined sft_data out",
    "harness": "model joined out",
    "import_hf": "tokenizer compute.dtype mesh.fsdp joined workdir",
    "label_answers": "model asked data joined template workdir",
    "label_pairs": "model asked data joined template workdir",
    "pretrain": "model trained joined workdir export bias_update_speed",
    "quickstart": "model joined workdir",
    "r1": "init data_dir workdir",
    "rejection": "model asked data joined template workdir",
    "report": "out",
    "sample": "model asked joined template",
    "sandbox_check": "joined",
    "scaling": "model asked data joined template out",
    "serve": "model asked joined template",
    "train_grpo": "model asked data trained joined template workdir export"
                  " eval_data mixture bias_update_speed",
    "train_reward": "model trained joined template workdir export reward_data"
                    " held_out bias_update_speed",
    "train_sft": "model asked trained joined template workdir export sft_data"
                 " held_out bias_update_speed",
    "train_tokenizer": "joined out",
    "world_dialogues": "joined workdir"}


@pytest.fixture(scope="module")
def shown():
  return helps.helps(MODULES)


def test_every_default_in_help_is_what_is_taken(shown):
  assert {"experiments.train_grpo", "experiments.train_sft",
          "experiments.compile_ahead", "experiments.pretrain",
          "experiments.sample", "experiments.evaluate"} <= set(shown)
  wrong = {f"{module} --{name}": pair for module, found in shown.items()
           for name, pair in found.items() if pair[0] != pair[1]}
  assert not wrong


@pytest.mark.parametrize("module,flag,value", [
    ("train_grpo", "policy.kl_beta", "0.001"),
    ("train_grpo", "optimizer.lr", "0.0002"),
    ("train_grpo", "eval.temperature", "1.0"),
    ("train_sft", "optimizer.schedule", "cosine"),
    ("sample", "temperature", "0.6"),
    ("compile_ahead", "compute.remat", "full"),
    ("compile_ahead", "optimizer.lr", "3e-06"),
    ("evaluate", "temperature", "0.6"),
])
def test_the_outer_default_counts(shown, module, flag, value):
  """Of nested dataclasses and of bases that an experiment brings."""
  assert shown[f"experiments.{module}"][flag][0] == value


def test_a_recipe_shows_in_help():
  (found,) = helps.helps(
      ["experiments.train_grpo"], "--policy.clip_low=0.1", "--init=hf:any",
      "--recipe=dapo").values()
  assert found["policy.clip_high"] == ["0.28", "0.28"]
  assert found["policy.clip_low"] == ["0.2", "0.1"]  # typed


def test_an_experiment_has_the_flags_that_it_reads():
  started = {path.stem for path in (ROOT / "experiments").glob("*.py")
             if "\n  start.run(" in path.read_text()}
  assert started == set(READS)
  known = {*" ".join(SHARED.values()).split(), *OTHERS}
  named = helps.names([f"experiments.{name}" for name in sorted(READS)])
  found = {module.partition(".")[2]: known & set(flags)
           for module, flags in named.items()}
  assert found == {
      name: {flag for word in reads.split()
             for flag in SHARED.get(word, word).split()}
      for name, reads in READS.items()}
