"""The server as a user starts and ends it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from tests import processes
from tests.experiments.calls import ROOT, calls
from tests.experiments.test_commands import fails, succeeds

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


def test_other_machines_need_a_token(model_file):
  hosts = ["0.0.0.0", "::", "10.1.2.3", "example.org"]
  for call in calls("experiments.serve", *(
      [f"--init=file:{model_file}", f"--host={host}"] for host in hosts),
      R1JAX_TOKEN=""):
    fails(call, "give --token=TEXT")


def test_it_listens_before_it_says_so(model_file):
  (call,) = calls("tests.experiments.listened", [
      f"--init=file:{model_file}", "--port=0", "--context=64", "--max_rows=2"])
  assert "is served at http://127.0.0.1:" in succeeds(call)


def test_a_model_that_fails_before_it_is_asked_says_why(model_file):
  (call,) = calls("tests.experiments.lost", [
      f"--init=file:{model_file}", "--port=0", "--context=64", "--max_rows=2"])
  fails(call, "the model is lost")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_until_a_signal(model_file, number):
  alone = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
  with subprocess.Popen(
      [sys.executable, "-m", "experiments.serve", f"--init=file:{model_file}",
       "--port=0", "--name=tiny", "--context=64", "--max_rows=2"], cwd=ROOT,
      env=alone | {"XLA_FLAGS": processes.xla_flags()}, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
    try:
      line = next(line for line in server.stdout if "http" in line)
      url, = re.findall(r"http:\S+", line)
      body = {"model": "tiny", "max_tokens": 3,
              "messages": [{"role": "user", "content": "2 + 2?"}]}
      with urllib.request.urlopen(urllib.request.Request(
          f"{url}/chat/completions", json.dumps(body).encode(),
          {"Content-Type": "application/json"})) as reply:
        assert json.load(reply)["usage"]["completion_tokens"] <= 3
      server.send_signal(number)
      _, errors = server.communicate(timeout=60)
    finally:
      server.kill()
  assert server.returncode == 0 and "Traceback" not in errors, errors
