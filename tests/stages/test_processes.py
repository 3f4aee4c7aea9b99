"""One, two and four processes on four devices: the same run.

The same prompts, the same samples, and numbers that differ by rounding.
"""

import json
import threading

import jax
import numpy as np
import pytest

from r1jax.checkpoint import export
from r1jax.checkpoint.manager import Manager
from r1jax.core import io
from r1jax.models.compute import Compute
from r1jax.report import html, rollouts, writer
from r1jax.sharding import processes
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import weights
from r1jax.stages.loop import session
from tests import processes as cluster
from tests.stages import cases

CLOSE = dict(rtol=1e-5, atol=1e-6)
PARAMETERS = dict(rtol=0, atol=1e-5)
# What a clock says, and what is rounding itself.
CLOCK = ("seconds/", "compile/", "rollout/tokens_per_s", "update/tokens_per_s",
         "rewards/wait_fraction")
NOISE = (*CLOCK, "rollout/logp_diff")
GRPO = ("replay", "minibatches")
STAGES = ("pretrain", *GRPO, "rewarded", "traced")
# As long again, most of it compiling.
MORE = ("sft", "tensor")
LOGP = 1e-5  # the bound of what is left out above


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Workdirs by number of processes; both compile at the same time."""
  folders = {n: tmp_path_factory.mktemp(f"run_{n}") for n in (1, 2)}
  _run(folders, *STAGES)
  return folders


@pytest.fixture(scope="module")
def more(runs):
  _run(runs, *MORE)
  return runs


def _run(folders, *stages):
  ended = {}

  def run(count, folder):
    ended[count] = cluster.finish(cluster.start(
        count, 4 // count, "-m", "tests.stages.cluster", folder, *stages))

  threads = [threading.Thread(target=run, args=item)
             for item in folders.items()]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for process in sum(ended.values(), []):
    assert process[0] == 0, process[2]


def same_numbers(rows, wanted):
  assert [row["step"] for row in rows] == [row["step"] for row in wanted]
  for row, want in zip(rows, wanted, strict=True):
    assert row.keys() == want.keys()
    for name in (n for n in row if not n.startswith(NOISE)):
      np.testing.assert_allclose(
          row[name], want[name], **CLOSE, err_msg=f"{name} {row['step']}")


def parameters(workdir):
  """Of the last checkpoint of a run of the dense model."""
  manager = Manager(workdir / "checkpoints", read_only=True)
  like = {"params": cases.policy(cases.DENSE).params}
  found, _ = manager.restore(like=like, partial=True)
  manager.close()
  return found["params"]


def same_parameters(found, wanted):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **PARAMETERS),
               found, wanted)


def compare(found, wanted, *stages):
  for stage in set(stages) - {"traced"}:
    same_numbers(writer.read(found / stage), writer.read(wanted / stage))
  for stage in {*GRPO, "tensor"} & set(stages):
    for kind in (rollouts.ROLLOUTS, rollouts.EVALUATIONS):
      steps = rollouts.steps(wanted / stage, kind)
      assert steps == rollouts.steps(found / stage, kind) and len(steps) == 2
      for step in steps:
        assert (rollouts.read(found / stage, step, kind)
                == rollouts.read(wanted / stage, step, kind))
  same_parameters(*(parameters(folder / "minibatches")
                    for folder in (found, wanted)))


def test_two_processes_run_as_one(runs):
  compare(runs[2], runs[1], *STAGES)


def test_reward_models_have_their_part_in_every_process(runs):
  for row in writer.read(runs[2] / "rewarded"):
    assert row["reward/helpful"] != row["reward/safety"]
    assert row["rewards/invalid_fraction"] == 0


def test_answers_are_stored_and_rewritten_as_by_one_process(runs):
  """Whole files are the same; each process made a part of every batch."""
  def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*.jsonl*") if path.is_file()}

  found, wanted = (contents(runs[n] / "traced") for n in (2, 1))
  assert found == wanted
  reports = [json.loads((runs[n] / "traced/report.json").read_text())
             for n in (1, 2)]
  assert reports[0]["answers"] == reports[1]["answers"]
  assert reports[0]["written"] == reports[1]["written"]
  assert {"sft.jsonl", "samples/batch_000002.jsonl.gz",
          "rewrites/batch_000001.jsonl.gz"} <= set(found)


@pytest.mark.slow
def test_two_processes_run_more_as_one(more):
  compare(more[2], more[1], *MORE)


@pytest.mark.slow
def test_two_processes_are_interrupted_and_go_on_bit_for_bit(tmp_path):
  _run({2: tmp_path}, "minibatches", "interrupted")
  found, wanted = (tmp_path / name for name in ("interrupted", "minibatches"))
  plain = [[{name: value for name, value in row.items()
             if not name.startswith(CLOCK)} for row in writer.read(folder)]
           for folder in (found, wanted)]
  assert plain[0] == plain[1] and len(plain[0]) == 3
  cases.same(parameters(found), parameters(wanted))
  for kind in (rollouts.ROLLOUTS, rollouts.EVALUATIONS):
    for step in rollouts.steps(wanted, kind):
      assert (rollouts.read(found, step, kind)
              == rollouts.read(wanted, step, kind))


def test_the_comparison_has_teeth(runs):
  first, second = (writer.read(runs[1] / "minibatches")[i] for i in (1, 2))
  with pytest.raises(AssertionError):
    same_numbers([second | {"step": 1}], [first])
  before = cases.policy(cases.DENSE).params
  with pytest.raises(AssertionError):
    same_parameters(parameters(runs[2] / "minibatches"), before)
  texts = [row["completion"] for row in rollouts.read(runs[1] / "replay", 1)]
  assert len(set(texts)) > 8


@pytest.mark.slow
def test_four_processes_run_as_one(runs, tmp_path):
  _run({4: tmp_path}, "pretrain", "minibatches")
  compare(tmp_path, runs[1], "pretrain", "minibatches")


@pytest.mark.slow
def test_rows_that_all_processes_hold_change_nothing(more):
  """tensor=4: every row lies on the devices of both processes."""
  for count in (1, 2):
    same_numbers(writer.read(more[count] / "tensor"),
                 writer.read(more[1] / "minibatches"))


def test_sampler_and_trainer_agree(runs):
  for stage in GRPO:
    assert all(0 < row["rollout/logp_diff_max"] <= LOGP
               for row in writer.read(runs[2] / stage)[1:])


def test_every_process_writes_what_it_sampled(runs):
  folder = runs[2] / "minibatches"
  names = sorted(path.name for path in (folder / "rollouts").iterdir())
  assert names == ["step_000001.jsonl.gz", "step_000001.process_1.jsonl.gz",
                   "step_000002.jsonl.gz", "step_000002.process_1.jsonl.gz"]
  asked = [row["prompt_id"] for row in rollouts.read(folder, 1)]
  first = rollouts.path(folder, 1)
  second = rollouts.of_process(first, 1)
  for half, path in ((asked[:8], first), (asked[8:], second)):
    alone = folder.parent / "alone" / "rollouts" / first.name
    io.write_bytes(alone, path.read_bytes())
    rows = rollouts.read(folder.parent / "alone", 1)
    assert [row["prompt_id"] for row in rows] == half
  assert html.select(folder) == html.select(runs[1] / "minibatches")


def test_what_is_exported_is_what_was_trained(runs):
  folder = runs[2] / "minibatches"
  found = weights.load(f"hf:{folder / 'hf'}", Compute(), jax.random.key(0))
  cases.same(found.params, parameters(folder))
  like = jax.eval_shape(lambda: cases.policy(cases.DENSE).params)
  path = runs[2] / "pretrain/out.safetensors"
  cases.same(export.load_params(path, like), parameters(path.parent))


def test_parameters_come_to_the_mesh_of_any_number_of_processes(runs):
  """A checkpoint of two processes on eight devices of one."""
  folder = runs[2] / "minibatches"
  mesh = make_mesh(MeshConfig(data=2, fsdp=4))
  found = weights.load(f"orbax:{folder}", Compute(), jax.random.key(0), mesh)
  cases.same(found.params, parameters(folder))
  assert all(x.sharding.mesh == mesh for x in jax.tree.leaves(found.params))


@pytest.mark.parametrize("seen,message", [
    ([[True, 4], [False, 4]], "process 1 does not see /shared/run, which"),
    ([[True, 4], [True, 2]], r"different newest checkpoints in .*: \[4, 2\]")])
def test_a_workdir_that_is_not_shared(monkeypatch, seen, message):
  monkeypatch.setattr(processes, "gather", lambda _: seen)
  with pytest.raises(ValueError, match=message):
    session._check_shared(session.epath.Path("/shared/run"), 4)
