"""--suite: what is there is measured, what is not is named, all is kept."""

import json

from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds


def test_a_suite_runs_goes_on_and_names_what_is_missing(
    model_file, questions, cache, tmp_path):
  out, seen = tmp_path / "out", tmp_path / "seen.jsonl"
  test = [json.loads(row) for row in (
      questions / "test.jsonl").read_text().splitlines()]
  seen.write_text(json.dumps({"text": test[1]["question"]}) + "\n")
  shared = [f"--init=file:{model_file}", f"--benchmarks_dir={questions}",
            "--samples=2", "--max_rows=8", "--max_new_tokens=8", f"--out={out}",
            "--rewards.workers=1"]
  first, again, other, none, unknown = calls(
      "experiments.evaluate",
      [*shared, "--suite=gsm8k,mmlu,simpleqa"],
      [*shared, "--suite=gsm8k,mmlu,simpleqa", f"--seen={seen}"],
      [*shared, "--suite=gsm8k", "--temperature=0.5"],
      [*shared, "--suite=mmlu"], [*shared, "--suite=mmul"],
      XDG_CACHE_HOME=str(cache))
  printed = succeeds(first)
  assert "GSM8K" in printed and "pass@1" in printed
  assert "mmlu is left out: mmlu is neither in" in printed
  assert "hendrycks/data.tar" in printed
  assert "simpleqa is left out: simpleqa is judged by a model" in printed
  assert "not measured, for the reasons above: mmlu, simpleqa\n" in printed
  results = json.loads((out / "results.json").read_text())
  assert set(results["missing"]) == {"mmlu", "simpleqa"}
  (gsm8k,) = results["results"]
  assert (gsm8k["name"], gsm8k["samples"]) == ("gsm8k", 2)
  assert gsm8k["numbers"][0]["name"] == "pass@1"
  assert (out / "gsm8k/generations.jsonl.gz").exists()
  assert "problems already" in succeeds(again) + again.err
  told = f"share text with {seen}: {out / 'gsm8k/contamination.json'}"
  assert "1 of 3 problems " + told in again.out and told not in first.out
  marked = json.loads((out / "gsm8k/result.json").read_text())["contamination"]
  assert (marked["problems"], marked["marked"]) == (3, 1)
  assert json.loads((out / "results.json").read_text())["results"][0][
      "contamination"] == marked
  fails(other, "was made by another config", "temperature: 0.6 -> 0.5",
        "choose another --out")
  fails(none, "nothing was measured: mmlu is neither in")
  fails(unknown, "suite='mmul' is neither a suite (paper, quick, shared)")
