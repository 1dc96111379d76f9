"""TLS on a connection that counts from its first moment: the handshake too may be slow."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, ClassVar

from stillframe.http.protocol import LINGER_S, Deadline, GuardedProtocol

log = logging.getLogger("stillframe.http")

WATCH_EVERY_S = 0.5


class TlsProtocol(GuardedProtocol):
    """``GuardedProtocol`` inside TLS; the handshake has the time until a request's headers are complete, and not more.

    Left to uvicorn, a connection would be handed over when the handshake is done, and nobody would count it until then.
    """

    context: ClassVar[ssl.SSLContext]
    high_water_bytes = 1  # inside TLS it is the first size that is too much; 0 would always be

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handshake: asyncio.Task[None] | None = None  # held here, or nobody would hold it
        self._is_open = False
        self._early = bytearray()
        self._unread = Deadline(self.loop, self._look_at_unread)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        self._enter(transport)
        transport.pause_reading()  # nothing is ours to hear before the handshake's own protocol is in place
        self._handshake = self.loop.create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        try:
            safe = await self.loop.start_tls(
                self.tcp,
                self,
                self.context,
                server_side=True,
                ssl_handshake_timeout=self.settings.header_timeout_s,
                ssl_shutdown_timeout=self.settings.answer_timeout_s,
            )
        except OSError as error:  # ssl's errors and timeouts are
            log.info("no TLS with %s: %s", self.tcp.get_extra_info("peername"), error)
            safe = None
        if safe is None or safe.is_closing():
            self._leave()
            return
        self._open(safe)
        self._is_open = True
        if self._early:
            super().data_received(bytes(self._early))
            self._early.clear()

    def data_received(self, data: bytes) -> None:
        # a request may come with the handshake's last words, before we are told that it is done
        if self._is_open:
            super().data_received(data)
        else:
            self._early += data

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look_at_unread()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            # nobody waits for an answer, and we not as long as usual for the client's farewell
            self._farewell.set(LINGER_S)

    def _leave(self) -> None:
        super()._leave()
        self._unread.end()

    def _look_at_unread(self) -> None:
        """What was encrypted lies in the TCP connection's buffer, of which nobody tells us."""
        lying_bytes = self.tcp.get_write_buffer_size()
        if lying_bytes:
            if not self._reading.is_set:
                self._reading.set(self.settings.answer_timeout_s)
            self._unread.set(WATCH_EVERY_S)
            self.crowd.lets_lie(self, lying_bytes)
        else:
            self._reading.call_off()
            self.crowd.reads(self)
