"""Recipes: files of flags below what is typed."""

import dataclasses
import itertools
import json
import re

import pytest
from absl import flags

from experiments import flagset, recipe
from r1jax.losses import presets
from r1jax.models.compute import Compute
from r1jax.rewards.combine import RewardConfig
from r1jax.sharding.mesh import MeshConfig
from r1jax.stages import zero
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.grpo_config import GrpoConfig
from tests.experiments import helps
from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds

EVAL = EvalConfig(temperature=1.0, top_p=1.0)
# What a recipe must not take from the embedded base's defaults by silence.
STATED = {
    "steps", "questions", "samples", "minibatches", "epochs", "temperature",
    "max_new_tokens", "row_length", "micro_rows", "template",
    "policy.kl_beta", "policy.clip_low", "policy.clip_high",
    "policy.aggregation", "optimizer.lr", "optimizer.warmup_steps",
    "optimizer.clip", "eval.temperature", "eval.top_p", "eval.samples",
    "eval.max_new_tokens", "eval_every", "save_every"}
HEADER = ("Source: ", "Command: python -m experiments.train_grpo ",
          "Hardware: ", "Memory: ", "Cost: ", "Expected curve: ")


def resolved(*arguments):
  """({flag set}, their flags) of a command line like train_grpo's."""
  values = flags.FlagValues()
  for name, default in (("init", "base"), ("recipe", ""), ("loss", "")):
    flags.DEFINE_string(name, default, "", flag_values=values)
  sets = [flagset.define(default, prefix, values) for default, prefix in (
      (GrpoConfig, ""), (EVAL, "eval"), (RewardConfig, "rewards"),
      (Compute, "compute"), (MeshConfig, "mesh"))]
  argv = ["program", *arguments]
  recipe.apply(argv, values)
  values(argv)
  return sets, values


def grpo(*arguments):
  return resolved(*arguments)[0][0].value()


def own(tmp_path, *lines):
  path = tmp_path / "own.flags"
  path.write_text("\n".join(lines))
  return f"--recipe={path}"


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_resolves(name):
  """Its flags are known, its config is valid, and nothing is left unsaid."""
  for handle in resolved(f"--recipe={name}")[0]:
    handle.value()
  path = recipe.find(name)
  settings = {x.name for x in recipe.read(path)}
  assert not STATED - settings
  comments = path.read_text().partition("\n\n")[0].replace("\n#", "")
  comments = " ".join(comments.split())
  for part in HEADER:
    assert part in comments
  if name not in ("embedded", "r1-zero"):
    assert f"--recipe={name} " in comments.replace("\\ ", "")


# What compile_ahead is told of a recipe, by its flags.
SIZES = {"samples": "samples", "micro_rows": "micro_rows",
         "length": "row_length", "offload": "offload", "mesh.data": "mesh.data",
         "mesh.fsdp": "mesh.fsdp", "mesh.expert": "mesh.expert"}


def ahead(name):
  """The flags of compile_ahead in a recipe's header; {} without any."""
  memory = recipe.find(name).read_text().partition("# Memory: ")[2].partition(
      "\n# Cost: ")[0].replace("\n#", "")
  found = re.search(r"\((--(?:preset|init)=\S+ .*?)\)", memory)
  return dict(word.removeprefix("--").split("=") for word in
              found[1].split()) if found else {}


@pytest.mark.parametrize("name,parts,micro", [
    ("dr-grpo", 8, 8), ("qwen2.5-1.5b-gpu", 1, 1), ("qwen2.5-7b-v5e", 1, 1),
    ("deepseekmath", 16, 8), ("dapo", 16, 1 / 64)])
def test_memory_is_that_of_the_recipes_sizes(name, parts, micro):
  """parts, micro: rows are computed at a part of the recipe's, as it says."""
  told, settings = ahead(name), {x.name: x.value for x in recipe.read(
      recipe.find(name))}
  rows = int(settings["questions"]) * int(settings["samples"])
  assert int(told["rows"]) * parts == rows
  assert int(told["micro_rows"]) * micro == int(settings.pop("micro_rows"))
  for flag in ("minibatches", "policy.kl_beta", "optimizer.moments"):
    assert told.get(flag) in (None, settings.get(flag, told.get(flag))), flag
  for flag, own in SIZES.items():
    assert own not in settings or told[flag] == settings[own], flag
  assert int(told["prompt"]) <= int(settings["row_length"]) - int(
      settings["max_new_tokens"])


@pytest.mark.slow  # compiles seven programs
def test_the_small_recipe_compiles():
  settings = {x.name: x.value for x in recipe.read(recipe.find("embedded"))}
  rows = int(settings["questions"]) * int(settings["samples"])
  call, = calls("experiments.compile_ahead", [
      "--preset=base-arith", "--topology=cpu", f"--rows={rows}", "--prompt=64",
      f"--samples={settings['samples']}", f"--length={settings['row_length']}",
      f"--micro_rows={settings['micro_rows']}", "--json"])
  found = json.loads(succeeds(call).splitlines()[-1])["rows"]
  assert {"reshard", "prefill", "decode", "logprobs", "accumulate",
          "apply"} <= {row["name"] for row in found}
  assert all(row["compile_s"] > 0 for row in found)


def test_every_memory_that_was_computed_is_held_to_its_recipe():
  assert {name for name in recipe.names() if ahead(name)} - {"embedded"} == {
      "dapo", "deepseekmath", "dr-grpo", "qwen2.5-1.5b-gpu", "qwen2.5-7b-v5e"}


def test_the_real_command_knows_their_flags():
  """train_grpo itself, not the flags above."""
  recipe_flag = "--recipe=qwen2.5-7b-v5e"
  (found,) = helps.helps(["experiments.train_grpo"], recipe_flag).values()
  sets, values = resolved(recipe_flag)
  got = {k: taken for k, (_, taken) in found.items()
         if not k.startswith("distributed.")}
  assert got == {flag: flagset.text(values[flag].value)
                 for handle in sets for flag in handle.declared}


def test_embedded_is_the_quickstarts_and_what_train_grpo_does_by_itself():
  sets, values = resolved()
  assert values.recipe == "embedded"
  assert [x.value() for x in sets] == [
      zero.config(0, 80), EVAL, RewardConfig(), Compute(), MeshConfig()]
  assert recipe.explain("embedded", "", sets) == (
      "recipe embedded\n  it sets steps=80 eval_every=10 optimizer.lr=0.0002"
      " optimizer.warmup_steps=5")


@pytest.mark.parametrize("init,name", [
    ("base", "embedded"), ("hf:DIR", "r1-zero"), ("orbax:RUN", "r1-zero"),
    ("random:r1-671b", "r1-zero"), ("file:x.safetensors", "r1-zero")])
def test_other_weights_do_not_inherit_the_small_models_rate(init, name):
  sets, values = resolved(f"--init={init}")
  assert values.recipe == name
  assert sets[0].value().optimizer.lr == {"embedded": 2e-4,
                                          "r1-zero": 3e-6}[name]


def test_r1_zero_has_the_papers_numbers():
  """Nature, Methods: a step is one update."""
  sets, _ = resolved("--recipe=r1-zero")
  cfg = sets[0].value()
  assert cfg.optimizer.lr == 3e-6
  assert (cfg.policy.kl_beta, cfg.policy.kl_estimator) == (0.001, "k3")
  assert cfg.questions * cfg.samples == 8192 and cfg.minibatches == 16
  assert cfg.questions // cfg.minibatches == 32 and cfg.samples == 16
  assert cfg.reference_every == 400
  assert cfg.steps * cfg.minibatches == 10_400
  assert cfg.max_new_tokens == (32_768, 65_536)
  (turn,) = cfg.stage_steps
  assert abs(turn * cfg.minibatches - 8_200) < cfg.minibatches
  assert cfg.temperature == 1.0 and cfg.epochs == 1
  assert sets[1].value().temperature == 0.6


def test_dapo_has_the_papers_numbers():
  """arXiv:2503.14476, section 4.1."""
  cfg = grpo("--recipe=dapo")
  assert (cfg.questions, cfg.samples, cfg.minibatches) == (512, 16, 16)
  assert cfg.optimizer.lr == 1e-6
  assert cfg.optimizer.warmup_steps == 20 * cfg.minibatches
  assert cfg.max_new_tokens == (16_384 + 4_096,)
  assert (cfg.policy.clip_low, cfg.policy.clip_high) == (0.2, 0.28)
  assert cfg.dynamic_tries > 0
  # The paper takes 1 of rewards of 1 and -1, here they are 1 and 0.
  assert cfg.advantages.overlong_tokens == 4_096
  assert cfg.advantages.overlong_penalty == 0.5


def test_nothing_in_a_recipe_waits():
  for name in recipe.names():
    assert "pending" not in recipe.find(name).read_text()


@pytest.mark.parametrize(
    "name", sorted(set(recipe.names()) & set(presets.PRESETS)))
def test_the_objective_is_the_presets(name):
  cfg, preset = grpo(f"--recipe={name}"), presets.get(name)
  assert cfg.policy == preset.policy
  assert cfg.advantages.normalize == preset.normalize
  assert grpo(f"--loss={name}").policy == preset.policy


def test_what_is_typed_wins_wherever_it_stands():
  typed = ["--recipe=dapo", "--optimizer.lr=5e-5", "--samples=8", "--init=hf:x"]
  found = {grpo(*order) for order in itertools.permutations(typed)}
  (cfg,) = found
  assert (cfg.optimizer.lr, cfg.samples) == (5e-5, 8)
  assert cfg == dataclasses.replace(
      grpo("--recipe=dapo"), samples=8, optimizer=dataclasses.replace(
          cfg.optimizer, lr=5e-5))


def test_what_a_flag_file_says_is_typed(tmp_path):
  (tmp_path / "mine").write_text("--recipe=dr-grpo\n--samples=4\n")
  cfg = grpo(f"--flagfile={tmp_path / 'mine'}", "--questions", "64")
  assert (cfg.samples, cfg.questions, cfg.minibatches) == (4, 64, 8)


def test_layers_of_the_objective(tmp_path):
  """Recipe's --loss, its own lines, the typed --loss, typed flags."""
  mine = own(tmp_path, "--policy.clip_high=0.3", "--loss=dapo")
  assert grpo(mine).policy == dataclasses.replace(
      presets.get("dapo").policy, clip_high=0.3)
  cfg = grpo("--policy.kl_beta=0.5", mine, "--loss=dr-grpo")
  assert cfg.policy == dataclasses.replace(
      presets.get("dr-grpo").policy, kl_beta=0.5)
  assert cfg.advantages.normalize == "none"


def test_lengths_bring_their_own_stages():
  assert grpo("--recipe=r1-zero", "--max_new_tokens=9").stage_steps == ()
  cfg = grpo("--recipe=r1-zero", "--max_new_tokens=9,10", "--stage_steps=7")
  assert (cfg.max_new_tokens, cfg.stage_steps) == ((9, 10), (7,))


def test_the_run_says_what_it_takes():
  sets, _ = resolved(
      "--recipe=r1-zero", "--loss=dapo", "--samples=8", "--questions=32",
      "--mesh.fsdp=2", "--compute.dtype=float32")
  text = recipe.explain("r1-zero", "dapo", sets)
  assert max(map(len, text.splitlines())) <= 80
  title, of_recipe, of_user = re.fullmatch(
      r"(.*)\n  it sets ([^:]*)\n  you set ([^:]*)", text).groups()
  assert title == "recipe r1-zero, objective dapo"
  assert {"optimizer.lr=3e-06", "minibatches=16", "policy.clip_high=0.28",
          "max_new_tokens=32768,65536", "compute.remat=full",
          "eval.temperature=0.6"} <= set(of_recipe.split())
  assert of_user.split() == ["questions=32", "samples=8", "mesh.fsdp=2"]


@pytest.mark.parametrize("lines,message", [
    (["# fine", "", "--samplse=4"],
     r"own\.flags:3: --samplse is not a flag .*did you mean --samples\?"),
    (["--samples=4", "samples=8"], r"own\.flags:2: 'samples=8' is not a flag"),
    (["--optimizer.zero1"], r"own\.flags:1: '--optimizer.zero1' is not a flag"),
    (["--samples=many"], r"own\.flags:1: flag --samples=many"),
    (["--samples=4", "--seed=1", "--samples=8"],
     r"own\.flags:3: --samples is set a second time, after .*own\.flags:1"),
    (["--recipe=dapo"], r"own\.flags:1: --recipe is not a flag"),
    (["--flagfile=x"], r"own\.flags:1: --flagfile is not a flag"),
    (["--loss=ppo"], r"own\.flags:1: loss preset 'ppo' is unknown"),
    (["--optimizer.zero1=perhaps"], r"own\.flags:1: .*zero1"),
])
def test_a_bad_line_is_named(tmp_path, lines, message):
  with pytest.raises(ValueError, match=message):
    grpo(own(tmp_path, *lines))


def test_values_of_every_type(tmp_path):
  cfg = grpo(own(tmp_path, "--optimizer.zero1=true", "--replay_experts=false",
                 " --offload=optimizer,reference ", "--template=Q: {question}",
                 "--stage_steps="))
  assert cfg.optimizer.zero1 and not cfg.replay_experts
  assert cfg.offload == ("optimizer", "reference") and cfg.stage_steps == ()
  assert cfg.template == "Q: {question}"


def test_the_command_refuses_in_one_message(model_file, tmp_path):
  unknown, bad, loss, without, long = calls(
      "experiments.train_grpo", ["--recipe=r2"],
      [own(tmp_path, "--samplse=4")], ["--loss=ppo"], ["--recipe"],
      [f"--init=file:{model_file}", f"--workdir={tmp_path / 'run'}"])
  fails(unknown, "recipe='r2' is unknown; choose one of dapo, deepseekmath")
  fails(bad, "own.flags:1: --samplse is not a flag")
  fails(loss, "loss preset 'ppo' is unknown; choose one of r1-zero")
  fails(without, "Missing value for flag --recipe")
  # R1-Zero's recipe, before the data are read.
  fails(long, "row_length is 66560 tokens, the model's context is 256; shorten")
  assert long.out.startswith(
      f"recipe r1-zero, that of --init=file:{model_file}\n"
      "  it sets steps=650 questions=512")
