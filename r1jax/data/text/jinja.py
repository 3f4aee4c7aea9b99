"""The child process that renders chat templates in Jinja's sandbox.

Started by `rendering` as `python -P -m r1jax.data.text.jinja`. The protocol is
JSON lines on stdin and stdout:

  in   {"source": Jinja source, "variables": {name: value},
        "date": YYYY-MM-DD to show as today, or "" for the machine's date,
        "seconds": limit of CPU time}
  out  [text, null], or [null, error message]

The sandbox restricts what a template can access; the kernel restricts what it
can use: after `seconds` of CPU time a signal kills this process, even inside a
C loop, and its address space is limited to `MEMORY`.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import resource
import signal
import sys
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.sandbox
import jinja2.utils

MEMORY = 1 << 30  # bytes of address space
LONGEST = 1 << 24  # characters of a rendered text


def main() -> None:
  """Answers requests until stdin ends, at the latest when the parent dies."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGPROF, signal.SIG_DFL)
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  for line in sys.stdin.buffer:
    request = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
      text, error = render(request["source"], request["variables"],
                           request["date"]), None
    except Exception as raised:  # a template can raise anything
      text, error = None, f"{type(raised).__name__}: {raised}"[:1000]
    signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.write(json.dumps([text, error]) + "\n")
    sys.stdout.flush()


def render(source: str, variables: dict[str, Any], date: str = "") -> str:
  """Renders a template.

  Args:
    source: Jinja source.
    variables: name -> value.
    date: YYYY-MM-DD that `strftime_now` formats; the machine's date if empty.

  Raises:
    Exception: any that the template, Jinja or its sandbox raises;
      jinja2.TemplateError for more than `LONGEST` characters.
  """
  if date:
    variables = variables | {
        "strftime_now": datetime.datetime.fromisoformat(date).strftime}
  text = _compiled(source).render(variables)
  if len(text) > LONGEST:
    raise jinja2.TemplateError(f"the rendered text has {len(text)} characters,"
                               f" more than {LONGEST}")
  return text


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
  return _environment().from_string(source)


@functools.cache
def _environment() -> jinja2.Environment:
  """The environment of transformers: its filters, globals and extensions."""
  env = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True,
      extensions=["jinja2.ext.loopcontrols", _Generation])
  # Jinja's own tojson escapes HTML.
  env.filters["tojson"] = _tojson
  env.globals |= {
      "raise_exception": _raise, "strftime_now": _strftime_now,
      "dict": lambda *args, **fields: dict(*args, **fields),
      "namespace": _namespace}
  return env


class _Generation(jinja2.ext.Extension):
  """Renders `{% generation %}` blocks, which mark assistant text, as is."""

  tags = frozenset({"generation"})

  def parse(self, parser: Any) -> Any:
    next(parser.stream)
    return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None,
            separators: tuple[str, str] | None = None,
            sort_keys: bool = False) -> str:
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent,
                    separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
  raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
  """The machine's date and time in a format of strftime."""
  return datetime.datetime.now().strftime(form)


class _Namespace(jinja2.utils.Namespace):
  """Jinja's namespace, which refuses names that begin with an underscore."""

  def __setitem__(self, name: str, value: Any) -> None:
    if name.startswith("_"):
      raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r}")
    super().__setitem__(name, value)


def _namespace(*args: Any, **fields: Any) -> _Namespace:
  made = _Namespace()
  for name, value in dict(*args, **fields).items():
    made[name] = value
  return made


if __name__ == "__main__":
  with contextlib.suppress(BrokenPipeError):
    main()
  # Skips flushing stdout, whose reader may be gone.
  os._exit(0)
