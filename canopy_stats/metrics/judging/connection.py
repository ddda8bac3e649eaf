"""One worker's connection to an endpoint, on which every request ends by its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from canopy_stats.metrics.judging.reply import LARGEST_REPLY, Reply
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    import httpx2


class Connection:
    """Sends requests one after the other; used by one thread.

    A client's own timeouts are for each read: headers or a body that come byte by byte would never run into them.
    The deadline is for the whole exchange, so the request runs in an event loop that can be told to stop.
    """

    def __init__(self, client: httpx2.AsyncClient, runner: asyncio.Runner, timeout: float) -> None:
        self._client, self._runner, self._timeout = client, runner, timeout

    def post(self, url: str, body: bytes) -> Reply:
        """The reply to a request. TimeoutError after ``timeout`` seconds, httpx2's errors as they are."""
        return self._runner.run(self._post(url, body))

    async def _post(self, url: str, body: bytes) -> Reply:
        async with asyncio.timeout(self._timeout), self._client.stream("POST", url, content=body) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST_REPLY:
                    break
            return Reply(response.status_code, bytes(content), response.headers.get("Retry-After"))


@contextmanager
def connect(key: str | None, timeout: float) -> Iterator[Connection]:
    """A connection that sends ``key`` in the Authorization header and nowhere else."""
    import httpx2

    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    client = httpx2.AsyncClient(headers=headers, timeout=timeout)
    with asyncio.Runner() as runner:
        try:
            yield Connection(client, runner, timeout)
        finally:
            runner.run(client.aclose())


def need_client() -> None:
    """UserError where the package that makes requests is missing."""
    try:
        import httpx2  # noqa: F401
    except ImportError:
        raise UserError("A judge behind an endpoint needs the package httpx2: pip install 'canopy-stats[judge]'. "
                        "EmbeddingJudge works without.") from None
