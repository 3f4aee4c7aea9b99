"""A plan's stages as forks of one process, which imports once.

  python -m tests.experiments.forked PLAN WORKDIR
"""

import os
import sys

from etils import epath

from r1jax.plans import pipeline
from r1jax.plans import plan as plan_lib
from r1jax.stages.reports import r1_report
from tests.experiments import calls


def _run(child, command, environ):
  at = command.index("-m")
  module, arguments = command[at + 1], command[at + 2:]
  process = os.fork()
  if not process:
    calls.leave(module, arguments, environ)
  return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(path, workdir):
  calls.import_all()
  pipeline._Child.run = _run
  plan = plan_lib.read(path)
  one = pipeline.Pipeline(
      plan=plan, workdir=epath.Path(workdir),
      values=plan.values(seed=0, data_dir="", init=""))
  assert one.run(plan.stages)
  print(r1_report.write(workdir, plan.report))


if __name__ == "__main__":
  main(*sys.argv[1:])
