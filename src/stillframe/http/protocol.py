"""HTTP/1.1 on a connection: uvicorn's protocol with deadlines, a bound on connections, and envelopes for what is no HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Any, ClassVar
from uuid import uuid4

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from stillframe.domain.errors import ErrorCase, Refused
from stillframe.http.crowd import Crowd
from stillframe.http.envelope import EnvelopeResponse, failure_of
from stillframe.http.transport import status_of
from stillframe.settings import Settings

log = logging.getLogger("stillframe.http")
# our own line about a broken request says more than uvicorn's warning beside it
_uvicorns_log = logging.getLogger("uvicorn.error.connection")
_uvicorns_log.setLevel(logging.ERROR)

LINGER_S = 2.0
# what the kernel keeps of one connection in each direction; left to itself it may keep megabytes for whoever does not read
KERNEL_BUFFER_BYTES = 128 << 10
WHY_MAX_CHARS = 200
_TOO_LONG = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE  # h11's hint where a part does not come to its end


def _nothing() -> None:
    pass


class Deadline:
    """Something happens, unless it is called off in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, missed: Callable[[], None]) -> None:
        self._loop = loop
        self._missed = missed
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._timer is not None

    def set(self, seconds: float) -> None:
        """Anew, also when it is running."""
        self.call_off()
        self._timer = self._loop.call_later(seconds, self._missed)

    def call_off(self) -> None:
        """Also when it is not running."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """For good. Whom it belonged to is let go: a crowd that leaves must not wait for the collector of cycles."""
        self.call_off()
        self._missed = _nothing


class GuardedProtocol(H11Protocol):
    """One connection that cannot be held open by doing nothing.

    Promises: the headers of a request are complete within ``header_timeout_s`` of the connection or of the last answer;
    what is written is taken within ``answer_timeout_s``; what is not HTTP is answered with an envelope, and then the
    connection is closed. (How long a body may take is the ``Transport``'s.) Nothing here waits in a thread.
    """

    settings: ClassVar[Settings]
    crowd: ClassVar[Crowd]
    high_water_bytes: ClassVar[int] = 0  # as little as the transport can be set to
    tcp: asyncio.Transport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _uvicorns_log
        self._request = Deadline(self.loop, self._request_is_overdue)
        self._reading = Deadline(self.loop, self._answer_is_overdue)
        self._farewell = Deadline(self.loop, self._has_lingered)
        self._is_refused = False
        self._heard_bytes = 0  # of the request that is waited for or answered

    @property
    def _has_request(self) -> bool:
        """Its headers are complete, and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete

    # --- the connection's life ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        self._enter(transport)
        self._open(transport)

    def _enter(self, tcp: asyncio.Transport) -> None:
        """It counts from now on."""
        self.transport = self.tcp = tcp
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            tcp.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER_BYTES)
        self._request.set(self.settings.header_timeout_s)
        self.crowd.enter(self)

    def _open(self, transport: asyncio.Transport) -> None:
        """HTTP is spoken from now on."""
        super().connection_made(transport)
        # with the smallest buffer we hear of every byte that the client has not taken; the kernel's comes on top
        transport.set_write_buffer_limits(high=self.high_water_bytes, low=0)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._leave()

    def _leave(self) -> None:
        """It counts no more."""
        self.crowd.leave(self)
        self._unset_keepalive_if_required()  # uvicorn leaves it running where the client has reset the connection
        for deadline in (self._request, self._reading, self._farewell):
            deadline.end()

    def give_up(self) -> None:
        """At once: what the kernel still holds for the client is thrown away too."""
        at_once = struct.pack("ii", 1, 0)
        self.tcp.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.tcp.abort()

    def shutdown(self) -> None:
        if self._is_refused or self.conn.our_state is h11.ERROR:
            self.transport.abort()
        else:
            super().shutdown()

    # --- what the client says -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        # after its last request, or after what we could not read, whatever it says is no request
        if self._is_refused or self.conn.their_state in (h11.MUST_CLOSE, h11.CLOSED):
            return
        self._heard_bytes += len(data)
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        if not self.transport.is_closing():
            self._request.set(self.settings.header_timeout_s)
        self.crowd.asks(self)
        self._heard_bytes = len(self.conn.trailing_data[0])
        super().on_response_complete()  # which may begin with the next request, when that is here already
        self._look()

    def _should_upgrade(self) -> bool:
        # no other protocol is spoken, and uvicorn would say so in the log each time
        return False

    def _look(self) -> None:
        """How far the request is that is waited for."""
        # of a body that is refused the rest is heard, but not kept
        held_bytes = min(self._heard_bytes, self.settings.max_header_bytes + self.settings.max_body_bytes)
        if self._has_request:
            self._request.call_off()
        if self._has_request and not self.cycle.more_body:
            self.crowd.has_asked(self, held_bytes)
        else:
            self.crowd.says(self, held_bytes)

    def _request_is_overdue(self) -> None:
        if self.conn.trailing_data[0]:
            why = f"the headers took longer than the {self.settings.header_timeout_s:g} s that they are waited for"
            self._refuse(Refused(ErrorCase.REQUEST_TOO_SLOW, why))
        else:
            self.transport.close()

    # --- what the client takes ------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading.set(self.settings.answer_timeout_s)
        self.crowd.lets_lie(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.crowd.reads(self)
        self._reading.call_off()

    def _answer_is_overdue(self) -> None:
        log.info("%s took no answer for %g s and was cut off", self.client, self.settings.answer_timeout_s)
        self.give_up()

    # --- what is no request ---------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Uvicorn calls it where h11 cannot go on; h11's own words are in the exception that is being handled."""
        error = sys.exc_info()[1]
        is_too_long = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == _TOO_LONG
        if error is not None:
            error.__traceback__ = None  # it leads to us, and h11 has made a cycle of it
        if is_too_long and not self._has_request:
            in_first_line = b"\n" not in self.conn.trailing_data[0]
            case = ErrorCase.URL_TOO_LONG if in_first_line else ErrorCase.HEADERS_TOO_LARGE
            self._refuse(Refused(case, f"at most {self.settings.max_header_bytes} bytes are accepted"))
        else:
            self._refuse(Refused(ErrorCase.REQUEST_BROKEN, (str(error) or msg)[:WHY_MAX_CHARS]))

    def _refuse(self, refusal: Refused) -> None:
        """Answer, where no other answer has begun, and hear no more."""
        request_id = uuid4().hex
        log.info("request %s from %s: %s: %r", request_id, self.client, refusal.case.name, refusal.desc)
        may_answer = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        with_body = not (self._has_request and self.cycle.scope["method"] == "HEAD")
        if self._has_request:
            # to the application the client has gone
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if may_answer:
            head, body = _answer(status_of(self.settings, refusal.case), refusal.case, refusal.desc)
            named = b"%s\r\nx-request-id: %s\r\n\r\n" % (head, request_id.encode())
            self.transport.write(named + body if with_body else named)
            self._linger()
        else:
            self.transport.abort()

    def _linger(self) -> None:
        """Say that this was the last word, and go on hearing for a moment.

        Whoever closes while the client is still sending makes the kernel reset the connection, and the client may never
        get to read why.
        """
        self._is_refused = True
        self._request.call_off()
        self._farewell.set(LINGER_S)
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        try:
            self.transport.write_eof()
        except OSError as error:
            log.debug("%s has gone already: %s", self.client, error)
            self.transport.abort()
            return
        self.flow.resume_reading()

    def _has_lingered(self) -> None:
        self.tcp.close()


@lru_cache(maxsize=64)  # a crowd of slow clients is told one thing over and over
def _answer(status: int, case: ErrorCase, desc: str) -> tuple[bytes, bytes]:
    """(status line and headers but for the id, body); h11 does not write it, because its state may not allow an answer."""
    envelope = EnvelopeResponse(failure_of(Refused(case, desc)), status_code=status)
    envelope.headers.update({"X-Content-Type-Options": "nosniff", "Connection": "close"})
    lines = [b"HTTP/1.1 %d %s" % (status, STATUS_PHRASES[status])]
    lines += [name + b": " + value for name, value in envelope.raw_headers]
    return b"\r\n".join(lines), bytes(envelope.body)
