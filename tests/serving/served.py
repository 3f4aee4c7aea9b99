"""A tiny model behind a server, in threads of this process."""

import contextlib
import dataclasses
import socket
import threading

import jax
import openai

from r1jax.data.text.tokenizer import SentencePieceTokenizer
from r1jax.models import presets
from r1jax.models.model import build
from r1jax.rollout.serving import Serving
from r1jax.serving.answers import Answerer
from r1jax.serving.app import Limits, Server
from r1jax.serving.connection import Listener
from r1jax.stages import weights

CONTEXT = 128
BODY = 2000  # most bytes of a request


def tiny():
  """(model, parameters, router bias, tokenizer)."""
  cfg = dataclasses.replace(
      presets.get("tiny-dense"), vocab_size=768, max_position=CONTEXT)
  model = build(cfg)
  params = model.unstack(jax.jit(model.init)(jax.random.key(0)))
  return (model, params, model.init_router_bias(),
          SentencePieceTokenizer(weights.WORLD_TOKENIZER))


@contextlib.contextmanager
def served(case, limits=None, control=None, waiting=40, template="plain",
           kept=0, **serving):
  """(the service, a client of its server).

  The system keeps `kept` bytes that a client has not read; 0: as it likes.
  """
  limits = limits or Limits(BODY)
  model, params, bias, tokenizer = case
  service = Serving(model, params, bias, tokenizer.eos_ids,
                    vocab=tokenizer.vocab_size, **dict(
                        max_rows=4, max_waiting=waiting, context=CONTEXT)
                    | serving)
  server = Listener(
      Server("m", service, Answerer(
          service, tokenizer, template, control=control), tokenizer,
          limits).app, service.close)
  listening = socket.socket()
  if kept:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kept)
  listening.bind(("127.0.0.1", 0))
  threads = [threading.Thread(target=service.work, daemon=True),
             threading.Thread(target=server.run, daemon=True,
                              kwargs={"sockets": [listening]})]
  for thread in threads:
    thread.start()
  url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
  try:
    yield service, openai.OpenAI(
        base_url=url, api_key=limits.token or "none", max_retries=0,
        timeout=120)
  finally:
    server.should_exit = True
    service.close()
    for thread in threads:
      thread.join()
