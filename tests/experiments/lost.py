"""The server, if its model fails while it compiles the first programs."""

from experiments import serve

main = serve.main


def _lose(self):
  raise ValueError("the model is lost")


serve.Serving._turn, serve.Serving._compile = _lose, lambda self: None
