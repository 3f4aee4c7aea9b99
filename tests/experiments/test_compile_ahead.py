"""Compiling ahead as users type it, for the CPU of this machine."""

import json

import pytest

from tests.checkpoint.test_hf_config import QWEN25_7B
from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds

MODULE = "experiments.compile_ahead"
SMALL = ("--preset=tiny", "--topology=cpu", "--rows=4", "--length=16",
         "--prompt=4")
GIB = 2**30


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
  config = tmp_path_factory.mktemp("hub") / "config.json"
  config.write_text(json.dumps(QWEN25_7B))
  return calls(
      MODULE, [*SMALL, "--program=logprobs,decode", "--json"],
      [*SMALL, "--preset=tiny-dense", "--sweep=2", "--json"],
      [*SMALL, "--program=updates"],
      ["--preset=tinny", "--topology=cpu"],
      [*SMALL, "--rows=3", "--samples=2"],
      [*SMALL, "--length=4096"],
      [*SMALL, "--topology=v9z:4x4"],
      [*SMALL, "--mesh.expert=5"],
      [*SMALL, "--init=hf:DIR"],
      [f"--init=hf-config:{config}", "--topology=h200", "--rows=64",
       "--samples=16", "--micro_rows=1", "--length=8192", "--prompt=1024",
       "--offload=reference", "--json"],
      [*SMALL, "--preset=tiny-dense", "--teacher=tiny", "--distill.factor=1",
       "--helpful=tiny-dense", "--model_rows=2", "--model_length=16",
       "--program=taught,score", "--offload=rewards", "--json"],
      [*SMALL, "--distill.factor=1"],
      [*SMALL, "--helpful=tiny"],
      [*SMALL, "--preset=tiny-dense", "--topology=h200", "--teacher=tiny",
       "--distill.factor=1", "--safety=tiny-dense", "--model_length=16",
       "--json"])


def figures(out):
  return json.loads(out.splitlines()[-1])


def test_the_tables(answers):
  out = succeeds(answers[0])
  for title in ("GiB a chip", "What is where", "Work of a chip",
                "Collectives of a chip"):
    assert title in out
  found = figures(out)
  assert found["model"] == "tiny" and found["devices"] == 1
  assert [row["name"] for row in found["rows"]] == [
      "logprobs", "decode"]
  for row in found["rows"]:
    assert row["argument_bytes"] == sum(row["arguments"].values())
    assert row["name"] in out and row["compile_s"] > 0


def test_a_teacher_and_a_reward_model(answers):
  found = figures(succeeds(answers[10]))
  taught, score = found["rows"]
  assert [taught["name"], score["name"]] == ["taught", "score"]
  # The teacher's MTP module is held, and nobody reads it.
  held = taught["held"]
  assert held["device"]["teacher"] > taught["arguments"]["teacher"] > 0
  assert held["host"]["reward models"] == score["arguments"][
      "reward models"] == score["held"]["device"]["reward models"]
  assert "reward models" not in {**held["device"], **score["held"]["host"]}


def test_they_are_estimated_where_nothing_is_compiled(answers):
  found = {row["name"]: row for row in figures(succeeds(answers[13]))["rows"]}
  assert min(found["taught"]["transient"].values()) > 0
  assert found["score"]["transient"]["a layer's activations"] > 0
  assert found["score"]["held"]["device"]["reward models"] > 0


def test_a_sweep(answers):
  found = figures(succeeds(answers[1]))
  assert [row["remat"] for row in found["rows"]] in (
      ["full", "dots"], ["dots", "full"])
  kept = {row["remat"]: row["temporary_bytes"] for row in found["rows"]}
  assert kept["full"] < kept["dots"]


@pytest.mark.parametrize("number,message", [
    (2, "program='updates': choose all or some of reshard, prefill, insert"),
    (3, "tinny"),
    (4, "rows=3 must be a multiple of samples=2"),
    (5, "length is 4096 tokens, the model's context is"),
    (6, "topology='v9z:4x4'"),
    (7, "expert=5"),
    (8, "give hf-config:FILE, or --preset"),
    (11, "distill.divergence must be positive with a teacher"),
    (12, "model_length (helpful) is 8192 tokens"),
])
def test_what_is_wrong_is_said(answers, number, message):
  fails(answers[number], message)


def test_a_published_shape_on_a_gpu_that_is_not_here(answers):
  """Qwen2.5-7B's parameters, and that every phase fits 139 GiB."""
  out = succeeds(answers[9])
  found = {row["name"]: row for row in figures(out)["rows"]}
  assert list(found) == [
      "reshard", "prefill", "insert", "decode", "halve", "logprobs",
      "accumulate", "apply"]
  size = 7_615_616_512
  held = found["accumulate"]["held"]
  assert held["device"]["masters"] == 4 * size
  assert held["device"]["moments"] == 4 * size + 8
  assert held["device"]["gradient sums"] == 4 * size + 4
  # All but norms and biases is in two bytes.
  assert 2 * size < held["device"]["compute copy"] < 2.001 * size
  assert set(held["host"]) == {"reference"}
  # 28 layers, keys and values of 4 heads of 128 in two bytes, and some bytes
  # of each row's own.
  cache = 64 * 8192 * 28 * 2 * 4 * 128 * 2
  assert cache < found["decode"]["held"]["device"]["cache"] < 1.01 * cache
  for row in found.values():
    total = sum(row["held"]["device"].values()) + sum(
        row["transient"].values())
    assert 60 * GIB < total < 139 * GIB
  assert out.count("yes") == 8 and "device + host" in out
