"""A run whose folder is in a bucket: killed, resumed, read, reported."""

import gzip
import json

from r1jax.report import writer
from tests import fake_gcs
from tests.stages import cases, driver
from tests.stages.test_resume import measured

STEPS = 6
TRAIN = f"""
from tests.stages import driver
trained = driver.train("gs://bucket/run", {STEPS})
"""
RESUME = TRAIN + """
from r1jax.models.compute import Compute
from r1jax.stages import weights
from r1jax.stages.reports import reporting
from tests.stages import cases
found = weights.load("orbax:gs://bucket/run", Compute(), None)
cases.same(found.params, trained.params)
reporting.write("gs://bucket/run")
"""


def rows(server):
  text = server.objects["run/metrics.jsonl"].data.decode()
  return [json.loads(line) for line in text.splitlines()]


def test_a_run_in_a_bucket_survives_a_kill_in_the_middle_of_a_save(tmp_path):
  with fake_gcs.Server() as server:
    server.kill(lambda method, name: name.endswith(
        "run/checkpoints/4/commit_success.txt"), TRAIN)
    assert "run/checkpoints/4/arrays/manifest.ocdbt" in server.objects
    # What the newest complete checkpoint has behind it is in the log.
    assert [row["step"] for row in rows(server)][:2] == [1, 2]

    text = server.run(RESUME)
    assert "resuming gs://bucket/run after step 2" in text
    files = {name.removeprefix("run/"): stored.data
             for name, stored in server.objects.items()}

  driver.train(tmp_path, STEPS)
  (tmp_path / "resumed").mkdir()
  (tmp_path / "resumed" / writer.METRICS).write_bytes(files[writer.METRICS])
  assert measured(tmp_path / "resumed") == measured(tmp_path)
  for step in range(1, STEPS + 1):
    name = f"rollouts/step_{step:06d}.jsonl.gz"
    assert (gzip.decompress(files[name])
            == gzip.decompress((tmp_path / name).read_bytes()))
  assert {name.split("/")[1] for name in files
          if name.startswith("checkpoints/")} == {"4", "6"}
  for name in ("config.json", "tokenizer/tokenizer.model",
               "figures/rewards.png", "report.html"):
    assert files[name], name
  assert files["report.html"].startswith(b"<!doctype html>")
  assert any(name.startswith("events.out.tfevents.") for name in files)
  assert not any(name.endswith(".part") for name in files)
  assert cases.judge().tokenizer.files["tokenizer.model"] == files[
      "tokenizer/tokenizer.model"]
