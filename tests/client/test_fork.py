"""A client in a process that was forked from its own says so, and harms neither process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.support import fake_recognizer
from tests.support.fake_triton import fake_triton


def test_a_forked_process_is_told_to_connect_for_itself() -> None:
    script = """
        import gc, os, sys
        import earshot

        with earshot.connect(sys.argv[1]) as client:
            stream = client.stream(sample_rate_hz=16000)
            stream.send(bytes(2000))
            child = os.fork()
            if not child:
                for use in (
                    lambda: stream.send(bytes(4000)),
                    stream.finish,
                    lambda: client.stream(sample_rate_hz=16000),
                    lambda: client.transcribe(bytes(4000), sample_rate_hz=16000),
                    client.is_ready,
                ):
                    try:
                        use()
                    except earshot.StreamClosed as error:
                        print(str(error).split(":")[-1].strip(), flush=True)
                stream.close()
                client.close()
                del stream
                gc.collect()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            stream.send(bytes(4000))
            print(stream.finish().duration_s)
    """
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        fake.answer.set()
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), fake.url],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert list(fake.chunks.values()) == [4]
    *told, duration = result.stdout.splitlines()
    assert len(told) == 5, result.stderr
    assert all(line.startswith("fork before the first `connect`") for line in told)
    assert duration == "0.1875"
