import json
import subprocess

import pytest

from r1jax.checkpoint import inits
from r1jax.report import workdir

CONFIG = {"steps": 100, "model": {"d_model": 32, "sizes": (1, 2)}, "seed": 0}


@pytest.mark.parametrize("text,message", [
    ("{}", "is not the config of a run; name the --workdir of a run, or"),
    ("[]", "is not the config of a run"), ("null", "is not the config of a"),
    ('{"config": null}', "is not the config of a run"),
    ('{"model_type": "llama"}', "is not the config of a run; it is that of a"
     " Hugging Face model: hf:")])
def test_a_config_that_is_not_of_a_run(tmp_path, text, message):
  (tmp_path / workdir.CONFIG).write_text(text)
  for read in (workdir.stored_in, inits.settings_of,
               lambda folder: workdir.resumes(folder, {"a": 1})):
    with pytest.raises(ValueError, match=f"{workdir.CONFIG} {message}"):
      read(tmp_path)
  assert (tmp_path / workdir.CONFIG).read_text() == text


def test_the_same_config_resumes(tmp_path):
  run = tmp_path / "run"
  assert not workdir.prepare(run, CONFIG, {"jax": "1"})
  assert workdir.prepare(run, CONFIG, {"jax": "2"})
  saved = json.loads((run / "config.json").read_text())
  assert saved["config"]["model"] == {"d_model": 32, "sizes": [1, 2]}
  assert saved["versions"] == {"jax": "1"}


def test_another_config_shows_the_difference_and_touches_nothing(tmp_path):
  workdir.prepare(tmp_path, CONFIG, {})
  before = (tmp_path / "config.json").read_bytes()
  other = CONFIG | {"model": {"d_model": 64, "sizes": (1, 2)}, "new": True}
  with pytest.raises(ValueError) as caught:
    workdir.prepare(tmp_path, other, {})
  message = str(caught.value)
  assert "model.d_model: 32 -> 64" in message and "new: None -> True" in message
  assert "seed" not in message and str(tmp_path) in message
  assert (tmp_path / "config.json").read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_ignored_keys_may_differ(tmp_path):
  workdir.prepare(tmp_path, CONFIG, {})
  longer = CONFIG | {"steps": 200}
  assert workdir.prepare(tmp_path, longer, {}, ignore=["steps"])
  with pytest.raises(ValueError, match="steps: 100 -> 200"):
    workdir.prepare(tmp_path, longer, {})


def test_a_run_without_its_config_is_refused(tmp_path):
  (tmp_path / "console.txt").write_text("a log that the shell made")
  assert not workdir.prepare(tmp_path, CONFIG, {})
  (tmp_path / "config.json").rename(tmp_path / "lost.json")
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(ValueError, match="has checkpoints but no config.json"):
    workdir.prepare(tmp_path, CONFIG, {})
  (tmp_path / "checkpoints").rename(tmp_path / "samples")  # an evaluation's
  with pytest.raises(ValueError, match="has samples but no config.json.*--out"):
    workdir.prepare(tmp_path, CONFIG, {}, otherwise="choose another --out")
  assert not (tmp_path / "config.json").exists()


def test_versions_and_commit(tmp_path):
  found = workdir.versions(["numpy", "no-such-package"], root=tmp_path)
  assert found["numpy"][0].isdigit() and found["python"].startswith("3.")
  assert found["no-such-package"] == "not installed"
  assert not found["commit"]

  def git(*arguments):
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        cwd=tmp_path, check=True, capture_output=True)

  git("init")
  (tmp_path / "a").write_text("1")
  git("add", "a")
  git("commit", "-m", "a")
  clean = workdir.versions([], root=tmp_path)["commit"]
  assert len(clean) == 40
  (tmp_path / "a").write_text("2")
  assert workdir.versions([], root=tmp_path)["commit"] == clean + "+"
  installed = tmp_path / ".venv/r1jax"
  installed.mkdir(parents=True)
  (installed / "b").write_text("1")
  assert not workdir.versions([], root=installed)["commit"]


def test_a_result_is_not_replaced_by_another(tmp_path):
  def take(**config):
    workdir.take_for("result.json", tmp_path / "out", config, {})

  take(init="base", top_p=1)
  with pytest.raises(ValueError, match="out is of another command, as its"):
    take(lr=1)
  take(init="other", top_p=1)  # the first one ended before its result
  (tmp_path / "out/result.json").write_text("{}")
  take(init="other", top_p=1)  # the same again
  with pytest.raises(ValueError, match="init: 'other' -> 'base'(.|\n)*another"
                                       " --out"):
    take(init="base", top_p=1)
  (tmp_path / "out/config.json").unlink()
  with pytest.raises(ValueError, match="result.json but no config.json that"):
    take(init="other", top_p=1)
