"""The pages' commands, run as they stand there at tiny sizes."""

import shlex

import pytest

from tests.experiments import flagged, followed
from tests.experiments.calls import Call

PAGES = {page.stem: page for page in followed.pages()}
LINES = [line for page in PAGES.values()
         for block in followed.blocks(page.read_text()) for line in block]
# Small as they stand.
AS_TYPED = {"build_data", "export_hf", "export_lora", "report", "serve"}


def test_commands_are_taken_out_of_their_blocks():
  text = "```bash\na --x=1 \\\n --y=2   # why\n# alone\nb\n```\n```text\nc\n```"
  assert list(followed.blocks(text)) == [["a --x=1 --y=2", "b"]]


def test_flags_that_make_it_small_are_the_last():
  line = "python -m experiments.train_grpo --workdir=W --steps=80"
  small = followed.small(line, "")
  assert small.startswith(line) and small.rindex("--steps=1 ") > len(line)
  assert "--init=http://h" in followed.small(
      "python -m experiments.evaluate --init=https://HOST/v1", "http://h")


def test_every_command_has_sizes_or_a_reason():
  assert len(LINES) > 60
  left = {line for line in LINES if not followed.skipped(line)
          and followed.small(line, "") == line
          and "source launch/env.sh" not in line}
  assert {line.split()[2].removeprefix("experiments.") for line in left} <= (
      AS_TYPED)
  assert len([line for line in LINES if followed.skipped(line)]) < 20


def test_every_small_command_has_flags_that_its_experiment_takes():
  small = [match.groups() for line in LINES if not followed.skipped(line)
           and (match := followed.EXPERIMENT.match(
               followed.small(line, "http://h")))]
  asked = [(module, shlex.split(words)) for module, words in small]
  assert len(asked) > 40
  assert not {str(line): error for line, error in zip(
      asked, flagged.errors(asked), strict=True) if error}


def succeed(found):
  found = list(found)
  assert not {
      r.line: r.out[-1500:] for r in found if r.verdict == followed.FAILED}
  assert any(r.verdict == "ok" for r in found)


def test_own_weights_are_asked_tuned_and_exported():
  succeed(followed.follow(PAGES["own-weights"], followed.by_fork, "## "))


def test_what_fails_is_seen_and_the_rest_goes_on():
  text = "```bash\nfalse\nsbatch x\npython -m experiments.report\n```\n"
  ends = {"false": Call(1, "", "no"),
          "python -m experiments.report": Call(0, "", "Traceback")}
  assert [r.verdict for r in followed.results("p", text, ends.get)] == [
      followed.FAILED, "needs SLURM", followed.FAILED]


@pytest.mark.slow  # minutes a page: every command is a process
@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_from_top_to_bottom(name):
  succeed(followed.follow(PAGES[name]))
