"""A stream has one request under way at a time, END included."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import earshot
import pytest

from tests.support.fake_recognizer import FIRST, PARAMETERS, PATIENT, RATE_HZ, noise
from tests.support.fake_triton import fake_triton

IN_ORDER = ["chunk arrived", "chunk answered", "END arrived", "END answered"]
IMPATIENT = replace(PATIENT, queue_s=0.1, chunk_s=0.1)


def test_a_cancelled_chunk_is_answered_before_the_end_is_sent() -> None:
    async def cancel_a_send() -> None:
        async with earshot.connect_async(fake.url, timeouts=PATIENT) as client:
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
    assert fake.seen == IN_ORDER


def test_a_late_chunk_is_answered_before_the_end_is_sent() -> None:
    with (
        fake_triton(PARAMETERS) as fake,
        earshot.connect(fake.url, timeouts=IMPATIENT) as client,
    ):
        stream = client.stream(sample_rate_hz=RATE_HZ)
        with pytest.raises(earshot.ChunkTimeout, match=r"the first chunk within 0\.2 s"):
            stream.send(noise(FIRST))
        with pytest.raises(earshot.StreamClosed):
            stream.send(noise(FIRST))
        threading.Timer(0.1, fake.answer.set).start()  # by then nothing else has arrived
        client.close()
        assert fake.seen == IN_ORDER


def test_a_late_chunk_is_answered_before_the_end_is_sent_async() -> None:
    async def time_out() -> None:
        async with earshot.connect_async(fake.url, timeouts=IMPATIENT) as client:
            stream = client.stream(sample_rate_hz=RATE_HZ)
            with pytest.raises(earshot.ChunkTimeout, match=r"the first chunk within 0\.2 s"):
                await stream.send(noise(FIRST))
            threading.Timer(0.1, fake.answer.set).start()

    with fake_triton(PARAMETERS) as fake:
        asyncio.run(time_out())
        assert fake.seen == IN_ORDER


def test_a_late_chunk_is_answered_before_the_end_is_sent_gevent() -> None:
    script = """
        from gevent import monkey
        monkey.patch_all()
        import grpc.experimental.gevent
        grpc.experimental.gevent.init_gevent()
        import sys, gevent, earshot

        def run():
            stream = client.stream(sample_rate_hz=16000)
            try:
                stream.send(bytes(4000))
            except earshot.ChunkTimeout:
                print("late", flush=True)

        timeouts = earshot.Timeouts(queue_s=0.1, chunk_s=0.1, close_s=120)
        with earshot.connect(sys.argv[1], timeouts=timeouts) as client:
            gevent.spawn(run).join()
    """
    with fake_triton(PARAMETERS) as fake:
        command = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), fake.url],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert command.stdout is not None
        assert command.stdout.readline() == "late\n"
        fake.answer.set()
        assert command.wait(timeout=300) == 0
        assert fake.seen == IN_ORDER


@pytest.mark.parametrize("late_chunk", [False, True])
def test_closing_does_not_wait_for_a_server_that_hangs(late_chunk: bool) -> None:
    with fake_triton(PARAMETERS) as fake:
        timeouts = replace(IMPATIENT if late_chunk else PATIENT, close_s=1)
        client = earshot.connect(fake.url, timeouts=timeouts)
        stream = client.stream(sample_rate_hz=RATE_HZ)
        if not late_chunk:
            fake.answer.set()
            stream.send(noise(FIRST))
            fake.answer.clear()
        else:
            with pytest.raises(earshot.ChunkTimeout):
                stream.send(noise(FIRST))
        started_s = time.monotonic()
        client.close()
        assert 0.9 < time.monotonic() - started_s < 20  # of the 30 s of an END


def test_garbage_found_inside_grpc_does_not_block() -> None:
    """A finalizer may run where gRPC holds a lock that sending an END needs as well."""
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url, timeouts=PATIENT) as client:
        fake.answer.set()
        dropped = [client.stream(sample_rate_hz=RATE_HZ)]
        dropped[0].send(noise(FIRST))
        infer, held = client._connection._infer, threading.Lock()

        def infer_and_collect(*arguments: Any, **options: Any) -> Any:
            assert held.acquire(blocking=False)
            dropped.clear()
            call = infer(*arguments, **options)
            held.release()
            return call

        client._connection._infer = infer_and_collect
        with client.stream(sample_rate_hz=RATE_HZ) as stream:
            stream.send(noise(FIRST))
        client.close()
        assert fake.seen.count("END answered") == 2


def test_all_requests_of_a_stream_carry_its_name() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url, timeouts=PATIENT) as client:
        fake.answer.set()
        for _ in range(2):
            with client.stream(sample_rate_hz=RATE_HZ) as stream:
                stream.send(noise(FIRST))
                stream.send(noise(5000))
            client.stream(sample_rate_hz=RATE_HZ)
        client.close()
    names = [headers["earshot-stream"] for headers in fake.headers]
    # The END of one stream may arrive after the START of the next.
    assert sorted(Counter(names).values()) == [5, 5]
