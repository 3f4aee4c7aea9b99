"""uvicorn's server and connection, that wait for no client for ever."""

from __future__ import annotations

import asyncio
import itertools
import resource
import socket
from collections.abc import Callable, Sequence

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30.0  # in which the header of the next request must arrive
STALL_SECONDS = 60.0  # in which a client must read some of what was sent
_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
# The most connections; the rest of the files that a process may have open is
# for what it does itself, and for those that are accepted in one turn.
MOST = 4096 if _FILES < 0 else min(4096, max(_FILES - 256, _FILES // 2))
_BACKLOG = 64  # the most that are accepted in one turn
GRACE = 5  # seconds after a signal in which running answers may finish
_LEAVE = 3  # further seconds in which clients may read why theirs did not


class Listener(uvicorn.Server):
  """uvicorn's server; a signal ends it within seconds, with all answers told.

  uvicorn alone would cancel requests that take longer, with a traceback for
  each and without a word to its client.
  """

  def __init__(self, app: Callable, close: Callable[[], None], *,
               host: str = "127.0.0.1", port: int = 0):
    """Loads the application; opens no socket.

    Args:
      app: the ASGI application.
      close: makes unfinished answers end; is called `GRACE` seconds after a
        signal.
      host, port: to listen on.
    """
    super().__init__(uvicorn.Config(
        app, host=host, port=port, log_level="warning", ws="none",
        backlog=_BACKLOG, timeout_graceful_shutdown=GRACE + _LEAVE,
        http=Connection))
    self.config.load()
    self._close = close

  async def shutdown(self, sockets: Sequence[socket.socket] | None = None
                     ) -> None:
    """Stops listening, and waits for the answers that are being made."""
    ending = asyncio.get_running_loop().call_later(GRACE, self._end)
    await super().shutdown(sockets)
    ending.cancel()

  def _end(self) -> None:
    self._close()
    for connection in list(self.server_state.connections):
      if connection.flow.write_paused:  # its client does not read
        connection.transport.abort()


class Connection(H11Protocol):
  """To be given as `http` of uvicorn.Config.

  uvicorn waits for ever for a client's first header, for the rest of one that
  has begun (its timeout of idle connections ends with the first byte), and for
  a client to read its answer. So clients that do nothing would take all the
  sockets of the server, and answers that nobody reads its memory. Without a
  free file asyncio logs a traceback for every attempt to accept a client, and
  attempts it ever more often; so beyond `MOST` the connection ends that has
  waited longest for a request.
  """

  _expected: asyncio.TimerHandle | None = None
  _stalled: asyncio.TimerHandle | None = None
  _turns = itertools.count()  # of waiting; the loop's time is too coarse

  def connection_made(self, transport: asyncio.Transport) -> None:
    super().connection_made(transport)
    self._expect()
    if len(self.connections) > MOST:
      min((one for one in self.connections if one._idle),
          key=lambda one: one._turn, default=self).transport.abort()

  @property
  def _idle(self) -> bool:
    return not self._expected.cancelled() and not self.transport.is_closing()

  def handle_events(self) -> None:
    former = self.cycle
    super().handle_events()
    if self.cycle is not former:  # a request has arrived
      self._expected.cancel()

  def on_response_complete(self) -> None:
    self._expect()  # first, as this may handle a request that has arrived
    super().on_response_complete()

  def pause_writing(self) -> None:
    super().pause_writing()
    self._stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

  def resume_writing(self) -> None:
    super().resume_writing()
    self._stalled.cancel()

  def send_400_response(self, msg: str) -> None:
    if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
      super().send_400_response(msg)
    else:  # the request, whose rest is no HTTP, was already answered
      self.transport.abort()

  def connection_lost(self, exc: Exception | None) -> None:
    for timer in filter(None, (self._expected, self._stalled)):
      timer.cancel()
    super().connection_lost(exc)

  def _expect(self) -> None:
    self._turn = next(self._turns)
    # Closing instead would wait for the client to read what was sent.
    self._expected = self.loop.call_later(
        HEADER_SECONDS, self.transport.abort)
