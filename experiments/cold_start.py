"""Cold-start data: R1-Zero's right answers, rewritten for readers, for SFT.

  python -m experiments.cold_start --init=orbax:runs/zero --samples=8 \\
      --rewriter=hf:DIR --workdir=runs/cold
  python -m experiments.cold_start --init=orbax:runs/zero --workdir=runs/cold \\
      --rewriter=my_rewriter.py:rewrite

Several answers per question are sampled at T = 1. The right and readable ones,
at most --keep per question, go to the rewriter: a model, an endpoint's URL with
--endpoint.model=NAME, or a function (prompt, thought, answer) -> (thought,
summary), None if it cannot. Rewrites are checked again: R1's format, language,
first person, the right answer by the same rule. WORKDIR/sft.jsonl is for
train_sft, report.json counts what was kept and dropped, and why. The same
command resumes. With other limits, remove WORKDIR/rewrites: answers are then
rewritten again, but not sampled again.
"""

from __future__ import annotations

import dataclasses

from absl import flags
from etils import epath

from r1jax.core.config import check
from r1jax.data.sources.selection import Report, SelectConfig
from r1jax.sharding import processes
from r1jax.stages import cold_start, dialogues, programs, rewriting
from r1jax.stages.replies import ReplyConfig

from . import common, flagset, replying, sampling, start

SELECT = flagset.define(SelectConfig(keep=1))
WORKDIR = flags.DEFINE_string("workdir", "runs/cold_start", "Folder to write.")
REWRITER = flags.DEFINE_string(
    "rewriter", "", "The rewriter: "
    + programs.HELP.format("(prompt, thought, answer)"))
REPLY = flagset.define(ReplyConfig, "rewriter")
FIRST_PERSON = flags.DEFINE_bool(
    "first_person", True, "Drop rewritten thoughts that never say I (English"
    " and Chinese).")


def main() -> None:
  select, reply = SELECT.value(), REPLY.value()
  check(bool(REWRITER.value), "--rewriter must be given: "
        + programs.HELP.format("(prompt, thought, answer)"))
  means = replying.means(reply, WORKDIR.value)
  began = common.settings_of(epath.Path(WORKDIR.value) / cold_start.FOLDER)
  name = common.frozen(
      REWRITER.value, began.get("rewriter", {}).get("name", ""))
  generate = programs.replier(name, means)
  rewriter = rewriting.rewriter(name, generate, seed=reply.seed)
  with sampling.asked(WORKDIR.value, "samples") as asked:
    if not asked.done:
      return
    samples = Report()
    chosen = cold_start.chosen(
        asked.cfg, select, asked.prompts, WORKDIR.value, samples)
    check(len(chosen) > 0, "there is nothing to rewrite; the samples:\n"
          + samples.counts() + "\nWith other limits (see --help) nothing is"
          " sampled again")
    cold_start.prepare(WORKDIR.value, {
        "select": dataclasses.asdict(select),
        "rewriter": means.settings(name) | {"batch": reply.batch}})
    if not cold_start.rewrite(
        chosen, rewriter, asked.judge, WORKDIR.value, batch=reply.batch,
        judged=asked.judged):
      return
    replying.report(REWRITER.value, generate)

    def write() -> str:
      report = Report()
      rows = cold_start.rows(
          chosen, asked.judge, WORKDIR.value, select, report,
          batch=reply.batch, first_person=FIRST_PERSON.value)
      return dialogues.write(
          WORKDIR.value, rows, report, before=samples,
          settings={"first_person": FIRST_PERSON.value})

    print(processes.from_writer(write), flush=True)


if __name__ == "__main__":
  start.run(main, many=True)
