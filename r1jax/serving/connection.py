"""uvicorn's HTTP connection, closed if no request arrives on it in time."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30.0  # in which the header of the next request must arrive


class Connection(H11Protocol):
  """To be given as `http` of uvicorn.Config.

  uvicorn waits for ever for a client's first header, and for the rest of one
  that has begun: its timeout of idle connections ends with the first byte. So
  clients that send nothing would take all the sockets of the server.
  """

  _expected: asyncio.TimerHandle | None = None

  def connection_made(self, transport: asyncio.Transport) -> None:
    super().connection_made(transport)
    self._expect()

  def handle_events(self) -> None:
    former = self.cycle
    super().handle_events()
    if self.cycle is not former:  # a request has arrived
      self._expected.cancel()

  def on_response_complete(self) -> None:
    self._expect()  # first, as this may handle a request that has arrived
    super().on_response_complete()

  def connection_lost(self, exc: Exception | None) -> None:
    self._expected.cancel()
    super().connection_lost(exc)

  def _expect(self) -> None:
    self._expected = self.loop.call_later(
        HEADER_SECONDS, self.timeout_keep_alive_handler)
