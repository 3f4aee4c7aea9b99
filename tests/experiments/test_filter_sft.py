"""filter_sft as users type it."""

import json

from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds


def row(text, **more):
  return {"prompt": "Q?", "completion": text} | more


def test_rows_that_stay_are_unchanged(tmp_path):
  good = row("<think>Two and two.</think> Four.", source="mine")
  chinese = row("<think>二加二。</think> 四。", language="zh")
  rows = [good, row("Four."), chinese, chinese | {"language": "en"},
          row("<think>" + "so so " * 60 + "</think> Four."), {"prompt": "Q?"},
          good | {"language": "tlh"}]
  data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
  data.write_text("\n\n".join(json.dumps(r) for r in rows) + "\n")
  arguments = [f"--sft_data={data}", f"--out={out}"]
  (tmp_path / "no.jsonl").write_text(json.dumps(row("Four.")) + "\n")
  text, again, lenient, missing, none = calls(
      "experiments.filter_sft", arguments, arguments,
      [f"--sft_data={data}", f"--out={tmp_path / 'b'}", "--nothinking",
       "--language_share=0"],
      [f"--sft_data={tmp_path / 'none'}", arguments[1] + "c"],
      [f"--sft_data={tmp_path / 'no.jsonl'}", arguments[1] + "d"])
  said = succeeds(text)
  assert [json.loads(x) for x in out.read_text().splitlines()] == [
      good, chinese]
  assert out.read_text().splitlines()[0] == json.dumps(good)
  for reason, count in (("empty thought", "1"), ("mixed language", "1"),
                        ("word loop", "1"), ("malformed", "2")):
    assert any(line.split()[-1] == count and reason in line
               for line in said.splitlines()), said
  assert f"{data}:11: " in said
  assert f"{data}:13: language='tlh' has no known script" in said
  fails(again, "exists; choose another --out")
  succeeds(lenient)
  assert len((tmp_path / "b").read_text().splitlines()) == 4
  fails(missing, "cannot be read")
  fails(none, f"no row of {tmp_path}/no.jsonl is left, nothing was written")
  assert not (tmp_path / "out.jsonld").exists()
