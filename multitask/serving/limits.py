"""Bounds of the server: how large a request may be, how long it may take, how many may wait."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import HTTPException, Request

Message = MutableMapping[str, Any]
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

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]],
                       send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [(name.encode(), value.encode())
                                       for name, value in HEADERS.items()
                                       if name.encode() not in given]
            await send(message)

        body = bytearray()
        with anyio.move_on_after(BODY_SECONDS) as reading:
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > BODY:
                    await refuse(send_with_headers, 413, f"the body is larger than {BODY:,} bytes")
                    return
                if not message.get("more_body"):
                    break
        if reading.cancelled_caught:
            await refuse(send_with_headers, 408, "the body did not arrive in time")
            return

        sent = False

        async def receive_body() -> Message:
            nonlocal sent
            if sent:
                return await receive()  # the client has gone
            sent = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, receive_body, send_with_headers)


async def refuse(send: Callable[[Message], Awaitable[None]], status: int, reason: str) -> None:
    """Answers at once, and closes the connection: the rest of the body is not read."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": reason}).encode()})
