"""`earshot models` on servers that refuse it; tests/service has one that allows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import earshot
import pytest
from earshot._cli import app
from earshot._repository import StageStreams, count_canaries
from typer.testing import CliRunner

from tests.support import fake_recognizer
from tests.support.fake_triton import FakeTriton, fake_triton


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with fake_triton(None, models={"clinic_v1_asr_streaming": fake_recognizer.PARAMETERS}) as fake:
        yield fake


def message_of(fake: FakeTriton, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["models", *arguments, "--url", fake.url])
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@contextmanager
def metrics(text: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("command", [[], ["load", "clinic_v1"], ["retire", "clinic_v1"]])
def test_a_private_repository(fake: FakeTriton, command: list[str]) -> None:
    fake.restricted = True
    assert "asks for the operators' key" in message_of(fake, *command)


def test_a_private_repository_does_not_hinder_streams(fake: FakeTriton) -> None:
    fake.restricted = True
    with earshot.connect(fake.url, model="clinic_v1") as client:
        assert client.info.name == "clinic_v1"
    with earshot.connect(fake.url, model="clinic") as client:
        assert client.info.name == "clinic_v1"


def test_an_unknown_name(fake: FakeTriton) -> None:
    for command in ("load", "unload", "retire"):
        message = message_of(fake, command, "default")
        assert "has no recognizer 'default'; it has clinic_v1: export it there" in message


def test_no_metrics(fake: FakeTriton) -> None:
    message = message_of(fake, "retire", "clinic_v1", "--metrics-url", "http://127.0.0.1:1/metrics")
    assert "no metrics at http://127.0.0.1:1/metrics" in message
    assert "--metrics-url" in message


def test_metrics_of_a_runtime_that_does_not_count_streams(fake: FakeTriton) -> None:
    other = 'earshot_live_streams{instance="a_0",model="court_encoder"} 3\n'
    with metrics(other) as url:
        message = message_of(fake, "retire", "clinic_v1", "--metrics-url", url)
    assert "have no earshot_live_streams of 'clinic_v1'" in message


def test_streams_of_adapters_are_counted_apart() -> None:
    """All stages count all streams; those that adapters change also by adapter."""
    text = """
earshot_live_streams{instance="f_0",model="feature_extractor"} 9
earshot_live_streams{instance="e_0",model="encoder"} 5
earshot_live_streams{instance="e_1",model="encoder"} 4
earshot_live_streams{instance="e_0",model="court_encoder"} 7
earshot_adapters{instance="e_0",model="encoder"} 2
earshot_adapters{instance="e_1",model="encoder"} 2
earshot_adapter_streams{adapter="clinic",instance="e_0",model="encoder"} 2
earshot_adapter_streams{adapter="clinic",instance="e_1",model="encoder"} 1
earshot_adapter_streams{adapter="coffee",instance="e_1",model="encoder"} 1
"""
    live = StageStreams(text, {"feature_extractor", "encoder"})
    assert [live.of_adapter(name) for name in ("clinic", "coffee", "tavern")] == [3, 1, 0]
    assert live.of_adapter("") == 5
    assert StageStreams(text, {"court_encoder"}).of_adapter("") == 7


def test_chunks_with_which_the_server_tests_itself_are_told_apart() -> None:
    text = """
earshot_canary_requests_total{model="clinic_asr_streaming"} 31.0
earshot_canary_requests_total{model="clinic_asr_offline"} 30.0
earshot_canary_requests_total{model="court_asr_streaming"} 7.0
"""
    assert count_canaries(text, ["clinic_asr_streaming", "clinic_asr_offline"]) == 61
    assert count_canaries(text, ["tavern_asr_streaming"]) == 0
