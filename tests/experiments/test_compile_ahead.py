"""Compiling ahead as users type it, for the CPU of this machine."""

import json

import pytest

from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds

MODULE = "experiments.compile_ahead"
SMALL = ("--preset=tiny", "--topology=cpu", "--rows=4", "--length=16",
         "--prompt=4")


@pytest.fixture(scope="module")
def answers():
  return calls(
      MODULE, [*SMALL, "--program=logprobs,decode", "--json"],
      [*SMALL, "--preset=tiny-dense", "--sweep=2", "--json"],
      [*SMALL, "--program=updates"],
      ["--preset=tinny", "--topology=cpu"],
      [*SMALL, "--rows=3", "--micro_batches=2"],
      [*SMALL, "--length=4096"],
      [*SMALL, "--topology=v9z:4x4"],
      [*SMALL, "--mesh.expert=5"])


def figures(out):
  return json.loads(out.splitlines()[-1])


def test_the_tables(answers):
  out = succeeds(answers[0])
  for title in ("GiB a chip", "Work of a chip", "Collectives of a chip"):
    assert title in out
  found = figures(out)
  assert found["preset"] == "tiny" and found["devices"] == 1
  assert [row["name"] for row in found["rows"]] == [
      "logprobs", "decode"]
  for row in found["rows"]:
    assert row["argument_bytes"] == sum(row["arguments"].values())
    assert row["name"] in out and row["compile_s"] > 0


def test_a_sweep(answers):
  found = figures(succeeds(answers[1]))
  assert [row["remat"] for row in found["rows"]] in (
      ["full", "dots"], ["dots", "full"])
  kept = {row["remat"]: row["temporary_bytes"] for row in found["rows"]}
  assert kept["full"] < kept["dots"]


@pytest.mark.parametrize("number,message", [
    (2, "program='updates': choose all or some of update, logprobs"),
    (3, "tinny"),
    (4, "rows=3 do not divide into micro_batches=2"),
    (5, "length is 4096 tokens, the model's context is"),
    (6, "topology='v9z:4x4'"),
    (7, "expert=5"),
])
def test_what_is_wrong_is_said(answers, number, message):
  fails(answers[number], message)
