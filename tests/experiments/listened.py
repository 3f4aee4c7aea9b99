"""The server, if a client comes as soon as its address is printed."""

import re
import socket

import uvicorn

from experiments import serve

main = serve.main


def _follow(line, **options):
  print(line, **options)
  for host, port in re.findall(r"http://([\d.]+):(\d+)", line):
    socket.create_connection((host, port), timeout=10).close()


serve.print = _follow
uvicorn.Server.run = lambda self, sockets: None  # accepts nobody yet
