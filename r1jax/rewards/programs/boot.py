"""The command line that starts Python as a sandbox's harness.

The start is most of the cost of a short program. So the files in `inside/` are
compiled once, by the Python that runs them, and not at every start.
"""

from __future__ import annotations

import binascii
import functools
import pathlib
import re
import subprocess

_PARTS = ("exchange.py", "harness.py", "examiner.py")
_INTERNAL = re.compile(
    r"^from (?:__future__|r1jax\S*) import (?:\([^)]*\)|.*)\n", re.MULTILINE)
_COMPILE = (
    "import marshal, sys; sys.stdout.buffer.write(marshal.dumps(compile("
    "sys.stdin.read(), '/harness.py', 'exec')))")
_RUN = ("import binascii, marshal\n"
        "exec(marshal.loads(binascii.a2b_base64('{}')))")


@functools.cache
def command(python: str) -> tuple[str, ...]:
  """The command line of a harness: isolated Python without `site`.

  Args:
    python: path of the interpreter.

  Raises:
    OSError: the interpreter does not run.
  """
  options = (python, "-I", "-S", "-E", "-B", "-X", "utf8")
  done = subprocess.run(
      [*options, "-X", "no_debug_ranges", "-c", _COMPILE],
      input=_text().encode(), capture_output=True)
  if done.returncode:
    raise OSError(f"{python} cannot compile the harness of a sandbox:"
                  f" {done.stderr.decode(errors='replace').strip()}")
  code = binascii.b2a_base64(done.stdout, newline=False).decode()
  return (*options, "-c", _RUN.format(code))


def _text() -> str:
  folder = pathlib.Path(__file__).with_name("inside")
  return "\n".join(
      _INTERNAL.sub("", (folder / part).read_text()) for part in _PARTS)
