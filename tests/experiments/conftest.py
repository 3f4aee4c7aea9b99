"""A tiny policy on disk and a tiny data set behind the door of GSM8K."""

import json

import pytest

from r1jax.stages import weights
from tests.stages import cases


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
  path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
  policy = cases.policy(cases.DENSE)
  weights.save(path, cases.DENSE, policy.params, policy.router_bias_LE)
  return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
  """Where these tests prepare data sets, not the user's cache."""
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
  """--data_dir: 33 rows of train (one is held out), 4 of test, a long one each.
  """
  folder = tmp_path_factory.mktemp("questions")
  for name, count in (("train", 33), ("test", 4)):
    rows = [{"question": f"What is {i} + 2?" + " Really." * 99 * (i == 3),
             "answer": f"{i} + 2 = {i + 2}\n#### {i + 2}"}
            for i in range(count)]
    (folder / f"{name}.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows))
  return folder
