"""Bounds of the server: how large a request may be, how long it may take, how many may wait."""

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Answer = TypeVar("Answer")

BODY = 256 * 1024      # bytes
BODY_SECONDS = 10.0    # for a body to arrive
WAITING = 32           # requests that wait for their turn; the next is told to come back
WAITING_SECONDS = 30.0
ANSWER_SECONDS = 60.0  # of computing; the largest input allowed takes less on a laptop
CONNECTIONS = 128

HEADERS = {
    # the page takes nothing from elsewhere, and nobody may frame it
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
                               "connect-src 'self'; img-src data:; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Turns:
    """One computation at a time: it uses all cores, and answers do not depend on who else asks.

    Raises:
        HTTPException: 503 if too many wait, or if turn or answer did not come in time.
    """

    def __init__(self) -> None:
        self.limiter = anyio.CapacityLimiter(1)

    async def take(self, request: Request, compute: Callable[[], Answer]) -> Answer:
        if self.limiter.statistics().tasks_waiting >= WAITING:
            raise busy()
        turn = object()
        with anyio.move_on_after(WAITING_SECONDS) as waiting:
            await self.limiter.acquire_on_behalf_of(turn)
        if waiting.cancelled_caught:
            raise busy()
        if await request.is_disconnected():
            self.limiter.release_on_behalf_of(turn)
            raise busy()  # nobody waits for it any more

        def compute_and_leave() -> Answer:
            try:
                return compute()
            finally:
                anyio.from_thread.run_sync(self.limiter.release_on_behalf_of, turn)

        # Python cannot stop a thread: it keeps its turn until it is done.
        with anyio.move_on_after(ANSWER_SECONDS):
            return await anyio.to_thread.run_sync(compute_and_leave, abandon_on_cancel=True)
        raise HTTPException(503, f"not done after {ANSWER_SECONDS:.0f} seconds: ask for less at a "
                                 "time")


def busy() -> HTTPException:
    return HTTPException(503, "too many requests are waiting: try again in some seconds",
                         headers={"retry-after": "5"})


class Bounded:
    """ASGI middleware: reads the body first, within its bounds, and adds the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        async def refuse(status: int, reason: str) -> None:
            # the rest of the body is not read, so the connection is of no more use
            response = JSONResponse({"detail": reason}, status, {"connection": "close"})
            await response(scope, receive, send_with_headers)

        body, more = bytearray(), True
        with anyio.move_on_after(BODY_SECONDS) as reading:
            while more and len(body) <= BODY:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
        if reading.cancelled_caught:
            await refuse(408, "the body did not arrive in time")
            return
        if len(body) > BODY:
            await refuse(413, f"the body is larger than {BODY:,} bytes")
            return

        whole = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def receive_whole() -> Message:
            return next(whole, None) or await receive()  # after it: the client has gone

        await self.app(scope, receive_whole, send_with_headers)
