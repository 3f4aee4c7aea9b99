"""Serves a model over HTTP, for OpenAI's clients.

  python -m experiments.serve --init=orbax:runs/r1/r1 --port=8000
  client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
  client.chat.completions.create(model="orbax:runs/r1/r1", messages=[...])

Completions of all clients are decoded in one batch of --max_rows rows; further
ones wait in a queue. A client that disconnects frees its rows. --risk.reviewer
puts answers under risk control. Needs an extra: pip install -e '.[serve]'.
"""

from __future__ import annotations

import importlib.util
import os
import threading

from absl import flags

from r1jax.core.config import check
from r1jax.rollout.serving import Ended, Serving
from r1jax.stages.loop import signals
from r1jax.training import reshard

from . import asking, common, risk, start

TEMPLATE = flags.DEFINE_string("template", "", asking.TEMPLATE)
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on. Addresses that other machines"
    " can reach need --token.")
PORT = flags.DEFINE_integer("port", 8000, "Port to listen on; 0: any free one.")
NAME = flags.DEFINE_string(
    "name", "", "The model's name in requests; default: --init.")
TOKEN = flags.DEFINE_string(
    "token", "", "Token that clients must send (Authorization: Bearer TOKEN);"
    " default: the environment variable R1JAX_TOKEN.")
ROWS = flags.DEFINE_integer(
    "max_rows", 0, "The most completions decoded at once; 0: 32, or as many as"
    " fit into the devices' free memory with --context tokens each.",
    lower_bound=0)
WAITING = flags.DEFINE_integer(
    "max_waiting", 256, "The most completions waiting for a row; requests for"
    " more get status 429.", lower_bound=0)
CONTEXT = flags.DEFINE_integer(
    "context", 0, "The most tokens of a prompt with its completion; 0: the"
    " model's context.", lower_bound=0)
NEW = flags.DEFINE_integer(
    "max_new_tokens", 0, "The most new tokens of an answer; 0: as many as the"
    " context has room for.", lower_bound=0)
BODY = flags.DEFINE_integer(
    "max_body", 1 << 20, "The most bytes of a request.", lower_bound=1)
SPECULATE = flags.DEFINE_integer(
    "speculate", 0, "Speculative decoding: the multi-token prediction module"
    " drafts so many tokens at a time and the model verifies them; 0: none."
    " Answers are the same up to rounding.", lower_bound=0)


def main() -> None:
  check(all(map(importlib.util.find_spec, ("starlette", "uvicorn"))),
        "serving needs starlette and uvicorn; pip install -e '.[serve]'")
  from r1jax.serving.answers import Answerer  # of an extra
  from r1jax.serving.app import Limits, Server, local
  from r1jax.serving.connection import Listener

  token = TOKEN.value or os.environ.get("R1JAX_TOKEN", "")
  check(bool(token) or local(HOST.value), f"host={HOST.value!r} can be reached"
        " from other machines; give --token=TEXT, or --host=127.0.0.1")
  template = asking.template(TEMPLATE.value)
  mesh = common.mesh()
  policy, tokenizer = common.policy(0, mesh, computing=True)
  tokenizer = common.settled(tokenizer, template)
  params = reshard.Decoding(policy.model, mesh, policy.params).there(
      policy.params, donate=True)
  serving = Serving(
      policy.model, params, policy.router_bias_LE, tokenizer.eos_ids,
      max_rows=ROWS.value, max_waiting=WAITING.value,
      context=CONTEXT.value or policy.model.cfg.max_position,
      vocab=tokenizer.vocab_size, speculate=SPECULATE.value, mesh=mesh)
  control = risk.control()
  name = NAME.value or common.INIT.value
  server = Listener(
      Server(name, serving,
             Answerer(serving, tokenizer, template, most=NEW.value,
                      control=control),
             tokenizer, Limits(BODY.value, token, control is None)).app,
      serving.close, host=HOST.value, port=PORT.value)
  _serve(server, serving, name)
  for line in control.lines() if control else []:
    print(line, flush=True)
  if serving.failure is not None:
    raise serving.failure


def _serve(server, serving: Serving, name: str) -> None:
  """Serves until a signal, or until the model fails."""
  try:
    socket = server.config.bind_socket()
  except SystemExit as error:  # uvicorn turns the OSError into this
    raise OSError(f"cannot listen on {HOST.value}:{PORT.value}; choose another"
                  " --port or --host") from error
  host, port = socket.getsockname()[:2]

  def work() -> None:
    try:
      serving.work()
    except Exception:  # raised by `main`
      server.should_exit = True

  worker = threading.Thread(target=work, name="model", daemon=True)
  worker.start()
  shown = f"[{host}]" if ":" in host else host
  try:
    print("compiling what short requests need ...", flush=True)
    serving.warm()
    socket.listen()  # else who reads the line at once may find nobody
    print(f"{name!r} is served at http://{shown}:{port}/v1 (the base_url of"
          " OpenAI's clients); Ctrl-C ends it", flush=True)
    server.run(sockets=[socket])
  except (KeyboardInterrupt, signals.Terminated):
    pass  # uvicorn passes on the signal on which it has ended as it should
  except Ended:
    pass  # `main` raises why
  finally:
    serving.close()
    worker.join()


if __name__ == "__main__":
  start.run(main)
