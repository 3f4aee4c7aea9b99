"""The launch files start runs: on this machine, under a SLURM that is a stub.

A tiny model is pre-trained by two processes until something happens to them.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from r1jax.checkpoint.manager import Manager
from r1jax.report import writer
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
ENDLESS = 100_000


def environ(**more):
  """Of a shell in which `python` is this one, on plain CPUs."""
  kept = {k: v for k, v in os.environ.items()
          if not k.startswith(("SLURM", "JAX_NUM", "JAX_PROCESS", "JAX_COORD"))
          and k != "PJRT_NPROC"}
  path = os.pathsep.join([os.path.dirname(sys.executable), kept["PATH"]])
  return kept | {"PATH": path, "R1JAX_VENV": "none", "JAX_PLATFORMS": "cpu",
                 "XLA_FLAGS": processes.xla_flags()} | more


def pretrain(model_file, workdir, steps):
  """The command of a run; a step takes some hundredths of a second."""
  return ["python", "-m", "experiments.pretrain", f"--init=file:{model_file}",
          f"--workdir={workdir}", "--rows=4", "--lm.mtp=0", "--lm.balance=0",
          f"--steps={steps}", "--save_every=5", "--distributed."
          "heartbeat_timeout=6"]


def local(count, command, folder, **more):
  """launch/local.sh, its output in files."""
  return started(["bash", "launch/local.sh", str(count), "--", *command],
                 folder, environ(LOGS=str(folder / "logs"), GRACE="40", **more))


def started(command, folder, environment):
  with open(folder / "out", "a") as out, open(folder / "err", "w") as err:
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out,
                            stderr=err, start_new_session=True)


def steps_done(workdir):
  with contextlib.suppress(ValueError):  # a line that is being written
    rows = writer.read(workdir)
    return rows[-1]["step"] if rows else 0
  return 0


def wait_for_step(workdir, step, launcher, folder):
  deadline = time.monotonic() + 200
  while steps_done(workdir) < step:
    assert launcher.poll() is None, (folder / "err").read_text()
    assert time.monotonic() < deadline
    time.sleep(0.05)


def children(pid):
  """Number of process (JAX_PROCESS_ID) to pid of what a launcher started."""
  found = {}
  tasks = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
  for child in map(int, tasks.split()):
    with contextlib.suppress(OSError):
      entries = pathlib.Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
      for entry in entries:
        if entry.startswith(b"JAX_PROCESS_ID="):
          found[int(entry.partition(b"=")[2])] = child
  return found


def test_local_says_what_failed_and_with_which_status(model_file, tmp_path):
  bad = pretrain(model_file, tmp_path / "run", 3)
  launcher = local(2, [*bad, "--rows=3"], tmp_path)
  assert launcher.wait(timeout=120) == 1
  err = (tmp_path / "err").read_text()
  # Process 0 says it on the terminal, the other's end is shown from its file.
  assert "\nerror: 3 rows of a micro-batch do not divide over 2" in err
  assert "[1] error: 3 rows of a micro-batch" in err or (
      "process 0 of 2" in err)
  assert "Traceback" not in err and not (tmp_path / "run").exists()


def test_local_a_signal_reaches_all_and_saved_is_no_failure(tmp_path):
  """Stubs in the place of runs: 75 says that they have saved."""
  stub = ("trap 'exit 75' TERM; echo up >\"$UP/$JAX_PROCESS_ID\"; sleep 99 &"
          " wait")
  launcher = local(2, ["bash", "-c", stub], tmp_path, UP=str(tmp_path))
  try:
    deadline = time.monotonic() + 60
    while not all((tmp_path / str(i)).exists() for i in range(2)):
      assert time.monotonic() < deadline and launcher.poll() is None
      time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=60) == 75
  finally:
    launcher.kill()
  assert "ended with status" not in (tmp_path / "err").read_text()


def test_local_devices_and_usage(tmp_path):
  show = ("import os, jax; from r1jax.sharding import distributed as d;"
          "d.initialize(); print(jax.device_count(), jax.local_device_count())")
  launcher = local(2, ["python", "-c", show], tmp_path, DEVICES="3")
  assert launcher.wait(timeout=120) == 0, (tmp_path / "err").read_text()
  assert "6 3\n" in (tmp_path / "out").read_text()
  assert "6 3\n" in (tmp_path / "logs/process_1.log").read_text()
  for arguments in ([], ["2"], ["0", "--", "true"], ["2", "--"]):
    done = subprocess.run(["bash", "launch/local.sh", *arguments], cwd=ROOT,
                          env=environ(), capture_output=True, text=True)
    assert done.returncode == 2 and "usage: bash launch" in done.stderr


SRUN = """#!/usr/bin/env bash
echo "$1" >>"$STUB/srun"
shift
pids=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NODELIST=localhost \\
    SLURM_STEP_NUM_NODES=1 "$@" &
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}"' TERM
worst=0
for pid in "${pids[@]}"; do
  while :; do
    code=0
    wait "$pid" || code=$?
    kill -0 "$pid" 2>/dev/null || break
  done
  [ "$code" -le "$worst" ] || worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >>"$STUB/scontrol"
"""


GCLOUD = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$STUB/asked"
if [ "$4" = scp ]; then
  cp "$5" "$STUB/home/r1jax.tgz"
else
  last="${*: -1}"
  cd "$STUB/home" && bash -c "${last#--command=}"
fi
"""


@pytest.fixture
def slurm(tmp_path):
  """Starts launch/slurm.sbatch as a batch node would, with two tasks."""
  for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
  job = next(i for i in range(1000, 5000) if _free(61440 + i % 4096))
  # SLURM runs a copy that lies elsewhere.
  script = tmp_path / "slurm_script"
  script.write_text((ROOT / "launch/slurm.sbatch").read_text())

  def start(command, restarts):
    found = environ()
    return started(["bash", script, *command], tmp_path, found | {
        "STUB": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:{found['PATH']}",
        "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": str(job),
        "SLURM_NTASKS": "2", "SLURM_RESTART_COUNT": str(restarts)})

  return start, job


def _free(port):
  with socket.socket() as sock:
    return sock.connect_ex(("localhost", port)) != 0


def test_a_killed_process_ends_all_and_a_queued_job_goes_on(
    model_file, tmp_path, slurm):
  """By local.sh first, then by SLURM, which preempts it."""
  workdir = tmp_path / "run"
  command = pretrain(model_file, workdir, ENDLESS)
  first = local(2, command, tmp_path)
  try:
    wait_for_step(workdir, 12, first, tmp_path)
    os.kill(children(first.pid)[1], signal.SIGKILL)
    status = first.wait(timeout=60)
  finally:
    first.kill()
  err = (tmp_path / "err").read_text()
  assert status == 128 + signal.SIGKILL
  assert "process 1 of 2 on " in err and "was ended by signal 9" in err
  assert "stopped answering 6 s ago, after step" in err  # process 0 knows too
  killed = steps_done(workdir)

  start, job = slurm
  second = start(command, 1)
  try:
    wait_for_step(workdir, killed + 3, second, tmp_path)
    second.send_signal(signal.SIGTERM)
    status = second.wait(timeout=60)
  finally:
    second.kill()
  err = (tmp_path / "err").read_text()
  assert status == 0, err
  saved = steps_done(workdir)
  assert f"SIGTERM: saved after step {saved}" in err
  assert "resuming" in err and "after step 10" in err.partition("SIGTERM")[0]
  manager = Manager(workdir / "checkpoints", read_only=True)
  assert manager.latest_step() == saved > killed
  manager.close()
  rows = [row["step"] for row in writer.read(workdir)]
  assert rows == list(range(1, saved + 1))
  assert (tmp_path / "scontrol").read_text() == f"requeue {job}\n"
  assert (tmp_path / "srun").read_text() == "--kill-on-bad-exit=1\n"


@pytest.mark.parametrize("status,restarts,queued", [
    (0, 1, False), (1, 0, False), (75, 0, True), (137, 3, True),
    (75, 100, False)])
def test_slurm_only_what_can_succeed_is_tried_again(
    tmp_path, slurm, status, restarts, queued):
  start, _ = slurm
  launcher = start(["bash", "-c", f"exit {status}"], restarts)
  assert launcher.wait(timeout=60) == (0 if queued else status)
  assert (tmp_path / "scontrol").exists() == queued


@pytest.fixture
def pod(tmp_path):
  """launch/tpu_pod.sh of a small repository, under a gcloud that is a stub."""
  stub, repository = tmp_path / "bin/gcloud", tmp_path / "repository"
  stub.parent.mkdir()
  stub.write_text(GCLOUD)
  stub.chmod(0o755)
  (tmp_path / "home").mkdir()
  (repository / "launch").mkdir(parents=True)
  for name in ("setup.py", "launch/env.sh", "launch/tpu_pod.sh"):
    shutil.copy(ROOT / name, repository / name)
  for command in (["init", "--quiet"], ["add", "."]):
    subprocess.run(["git", *command], cwd=repository, check=True)
  (repository / "setup.py").write_text("# edited, not committed")
  (repository / "key.json").write_text("a secret")
  found = environ()
  found |= {"STUB": str(tmp_path), "PATH": f"{stub.parent}:{found['PATH']}",
            "TPU": "pod", "ZONE": "us-x1-a"}

  def start(*command, **more):
    return subprocess.Popen(
        ["bash", "launch/tpu_pod.sh", *command], cwd=repository,
        env=found | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True)

  return start


def test_tpu_pod_copies_the_repository_and_runs_the_command(pod, tmp_path):
  """What gcloud is asked, what arrives, quoting."""
  done = pod("python", "-c", "import sys; print(sys.argv)", "two words",
             "$HOME", R1JAX_EXTRA="")
  out, err = done.communicate(timeout=60)
  assert done.returncode == 0, err
  assert out == "['-c', 'two words', '$HOME']\n"
  assert "1 untracked files are not copied" in err
  first, second = (tmp_path / "asked").read_text().split("compute tpus")[1:]
  assert first.split()[:2] == ["tpu-vm", "scp"] and "--worker=all" in first
  assert second.split()[:3] == ["tpu-vm", "ssh", "pod"]
  assert "--worker=all" in second and "--zone=us-x1-a" in second
  assert "R1JAX_EXTRA=gcs" in second  # --workdir is a bucket
  there = tmp_path / "home/r1jax"
  assert (there / "setup.py").read_text() == "# edited, not committed"
  assert (there / "launch/env.sh").exists()
  assert not (there / "key.json").exists()
  usage = pod("true", TPU="")
  assert "usage: TPU=NAME" in usage.communicate(timeout=60)[1]
  assert usage.returncode == 2


def test_tpu_pod_stops_its_own_job_and_nothing_else(pod, tmp_path):
  bystander = subprocess.Popen(["sleep", "100"])
  run = pod("python", "-c", "import time; print('begun', flush=True);"
            "time.sleep(100)", "a b")
  try:
    assert run.stdout.readline() == "begun\n"
    # A number that is another process's by now.
    (tmp_path / f"home/r1jax/.jobs/{bystander.pid}").write_text("long ago")
    out, err = pod("--stop").communicate(timeout=60)
    assert out.count("told python -c ") == 1, out + err
    assert run.wait(timeout=60) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert bystander.poll() is None
    # Nothing was copied to stop it.
    assert (tmp_path / "asked").read_text().count(" scp ") == 1
  finally:
    run.kill()
    bystander.kill()
    bystander.wait()
    run.communicate()
