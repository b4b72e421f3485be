"""A stream has one request under way at a time, END included."""

from __future__ import annotations

import asyncio

import earshot
import pytest

from tests.client.fake_triton import fake_triton
from tests.client.stand_in import FIRST, PARAMETERS, RATE_HZ, noise


def test_a_cancelled_chunk_is_answered_before_the_end_is_sent() -> None:
    async def cancel_a_send() -> None:
        async with earshot.connect_async(fake.url) as client:
            stream = client.stream(sample_rate_hz=RATE_HZ)
            sending = asyncio.ensure_future(stream.send(noise(FIRST)))
            await asyncio.to_thread(fake.arrived.acquire)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            with pytest.raises(earshot.StreamClosed):
                await stream.send(noise(FIRST))
            await asyncio.sleep(0.1)  # in which neither a cancellation nor an END may arrive
            fake.answer.set()

    with fake_triton(PARAMETERS) as fake:
        asyncio.run(cancel_a_send())
    assert fake.seen == ["chunk arrived", "chunk answered", "END arrived", "END answered"]


def test_all_requests_of_a_stream_carry_its_name() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        for _ in range(2):
            with client.stream(sample_rate_hz=RATE_HZ) as stream:
                stream.send(noise(FIRST))
                stream.send(noise(5000))
            client.stream(sample_rate_hz=RATE_HZ)
        client.close()
    names = [headers["earshot-stream"] for headers in fake.headers]
    assert len(names) == 10
    assert len(set(names[:5])) == len(set(names[5:])) == 1
    assert names[0] != names[5]
