"""Plans: what is read, in which order, and every way to write one wrongly."""

import pytest

from r1jax.plans import plan as plan_lib

GOOD = """
[defaults]
init = "base"

[stages.last]
like = "second"
flags = {steps = 9, init = "orbax:{second}"}

[stages.first]
run = "train_grpo"
flags = {init = "{init}", seed = "{seed}", rewards.format = "think", \
"judge.batch" = 2, even = true, sizes = [1, 2], lr = 2e-4}

[stages.second]
run = "my.module"
out = "out"
flags = {init = "orbax:{first}", data = "{first}/a.jsonl,{data_dir}/b.jsonl", \
steps = 5}
expect = {length = 40}
"""


def read(tmp_path, text):
  path = tmp_path / "plan.toml"
  path.write_text(text)
  return plan_lib.read(path)


def test_stages_come_behind_what_they_read(tmp_path):
  plan = read(tmp_path, GOOD)
  assert [s.name for s in plan.stages] == ["first", "second", "last"]
  first, second, last = plan.stages
  assert first.flags == {
      "init": "{init}", "seed": "{seed}", "rewards.format": "think",
      "judge.batch": "2", "even": "true", "sizes": "1,2", "lr": "0.0002"}
  assert first.run == "train_grpo" and first.out == "workdir"
  assert second.run == "my.module" and second.reads == ("first",)
  # Like the second, but for what it says itself.
  assert last.flags == second.flags | {"steps": "9", "init": "orbax:{second}"}
  assert last.out == "out" and last.expect == {"length": 40}
  assert last.reads == ("second", "first")
  assert plan.readers(["second"]) == ["second", "last"]


def test_the_order_of_the_file_stays_where_nothing_is_read(tmp_path):
  plan = read(tmp_path, "".join(
      f"[stages.{name}]\nrun = 'x'\n" for name in ("c", "a", "b")))
  assert [s.name for s in plan.stages] == ["c", "a", "b"]


def test_values_of_the_command(tmp_path):
  plan = read(tmp_path, GOOD)
  assert plan.values(seed=3, data_dir="/data", init="") == {
      "init": "base", "seed": "3", "data_dir": "/data", "plan": str(tmp_path)}
  assert plan.values(seed=0, data_dir="/d", init="hf:x")["init"] == "hf:x"
  with pytest.raises(ValueError, match="second reads {data_dir}: give --data"):
    plan.values(seed=0, data_dir="", init="")
  one = read(tmp_path, "[stages.a]\nrun = 'x'\n")
  assert one.values(seed=5, data_dir="", init="")["seed"] == "5"
  with pytest.raises(ValueError, match="--init=base: no stage of .* reads"):
    one.values(seed=0, data_dir="", init="base")


def test_what_is_not_given_may_stay_in_braces(tmp_path):
  plan = read(tmp_path, GOOD)
  assert "data_dir" not in plan.values(
      partly=True, seed=0, data_dir="", init="")


A = "[stages.a]\nrun = 'x'\n"


@pytest.mark.parametrize("text,message", [
    ("[stages.a\n", "is not TOML: .*line 1"),
    ("", "has no stages; write"),
    ("[stages]\na = 1\n", "stages.a: a stage is a table"),
    ("[stages.seed]\nrun = 'x'\n", "none of seed, data_dir, init, plan"),
    ("[stages.'a-b']\nrun = 'x'\n", "letters, digits and _"),
    ("stage = {}\n" + A, "stage is unknown .did you mean stages"),
    (A + "flag = {}\n", "stage a: flag is unknown .did you mean flags"),
    (A + "out = 3\n", "stage a: out=3 is not of type str"),
    ("[stages.a]\nflags = {}\n", "stage a has no run; write run="),
    (A + "flags = {workdir = 'x'}\n", "flag workdir is set by the pipeline"),
    (A + "flags = {when = 2020-01-01}\n", "flag when=.* give a text, number"),
    (A + "flags = {sizes = [{b = 1}]}\n", "flag sizes=.* give a text, number"),
    (A + "flags = {init = '{other}'}\n",
     "stage a: {other} is neither a stage nor one of seed"),
    (A + "flags = {init = '{data_dur}'}\n", "did you mean data_dir"),
    (A + "like = 'b'\n", "stage a: like='b' is not a stage"),
    ("[stages.a]\nlike = 'b'\n[stages.b]\nlike = 'a'\n",
     "like itself, by way of a -> b -> a"),
    (A + "flags = {init = '{a}'}\n", "wait for each other: a -> a"),
    (A + "[stages.b]\nrun = 'x'\nflags = {x = '{c}'}\n"
     "[stages.c]\nrun = 'x'\nflags = {x = '{d}{a}'}\n"
     "[stages.d]\nrun = 'x'\nflags = {x = '{b}'}\n",
     "wait for each other: b -> c -> d -> b"),
    (A + "expect = {length = 0}\n", "expect.length=0 must be a positive"),
    ("[report]\nmodels = {r1 = 'eval'}\n" + A,
     "report.models.r1='eval' is not a stage"),
    ("[estimate]\nprice = 'x'\n" + A, "estimate: price='x' is not of type flo"),
])
def test_a_malformed_plan_names_file_and_place(tmp_path, text, message):
  with pytest.raises(ValueError, match=message) as error:
    read(tmp_path, text)
  assert str(tmp_path / "plan.toml") in str(error.value)


def test_a_missing_plan(tmp_path):
  with pytest.raises(ValueError, match="none.toml cannot be read"):
    plan_lib.read(tmp_path / "none.toml")
