"""Clients get the recognizer that they name, if a server has several, also when they change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import earshot
import pytest
from earshot._cli import app
from earshot._handshake import newest, recognizers
from typer.testing import CliRunner

from tests.support import fake_recognizer
from tests.support.fake_triton import OFFLINE, fake_triton

Name = Callable[[str, str | None], str]


def name_sync(url: str, model: str | None) -> str:
    with earshot.connect(url, model=model) as client:
        return client.info.name


def name_async(url: str, model: str | None) -> str:
    async def connect() -> str:
        async with earshot.connect_async(url, model=model) as client:
            return client.info.name

    return asyncio.run(connect())


both_clients = pytest.mark.parametrize("name", [name_sync, name_async])


def streaming(*names: str) -> dict[str, dict[str, str]]:
    ensembles = (f"{name}_asr_streaming" if name else "asr_streaming" for name in names)
    return {
        ensemble: fake_recognizer.PARAMETERS | {"checkpoint": ensemble} for ensemble in ensembles
    }


@both_clients
@pytest.mark.parametrize(
    ("there", "wanted", "got"),
    [
        (["", "clinic_v2"], None, ""),
        (["", "clinic_v2"], "clinic_v2", "clinic_v2"),
        (["clinic_v9", "clinic_v10", "court_v99"], "clinic", "clinic_v10"),
        (["clinic", "clinic_v2"], "clinic", "clinic"),
        (["clinic_v2"], None, "clinic_v2"),
        (["clinic_v1", "clinic_v2"], None, "clinic_v2"),
    ],
)
def test_the_one_that_is_meant(name: Name, there: list[str], wanted: str | None, got: str) -> None:
    with fake_triton(None, models=streaming(*there)) as fake:
        assert name(fake.url, wanted) == got


@both_clients
@pytest.mark.parametrize(
    ("there", "wanted", "message"),
    [
        (
            ["clinic_v1", "court"],
            None,
            "asr_streaming; it serves clinic_v1, court: choose",
        ),
        (["clinic_v1"], "clinic_v2", "no model 'clinic_v2'; it serves clinic_v1"),
        ([""], "clinic", "no model 'clinic'; it serves default"),
        ([], None, "it serves no recognizer"),
    ],
)
def test_none_is_meant(name: Name, there: list[str], wanted: str | None, message: str) -> None:
    with (
        fake_triton(None, models=streaming(*there)) as fake,
        pytest.raises(earshot.UnsupportedServer, match=message),
    ):
        name(fake.url, wanted)


def test_streams_go_to_the_newest_after_a_refresh() -> None:
    with fake_triton(None, models=streaming("clinic_v1")) as fake:
        with earshot.connect(fake.url, model="clinic") as client:
            fake.models |= streaming("clinic_v2")
            assert client.info.name == "clinic_v1"
            client.refresh()
            assert client.info.name == "clinic_v2"

        async def refresh() -> str:
            async with earshot.connect_async(fake.url, model="clinic") as client:
                fake.models |= streaming("clinic_v3")
                await client.refresh()
                return client.info.model

        assert asyncio.run(refresh()) == "clinic_v3_asr_streaming"


def test_what_is_half_loaded_is_not_meant_yet() -> None:
    there = streaming("clinic_v1", "clinic_v2") | {"clinic_v2_asr_offline": OFFLINE}
    with fake_triton(None, models=there) as fake:
        fake.loading = {"clinic_v2_asr_offline"}
        with earshot.connect(fake.url, model="clinic") as client:
            assert client.info.name == "clinic_v1"
            fake.loading = set()
            client.refresh()
            assert client.info.name == "clinic_v2"
            assert client.offline is not None


def test_names_of_recognizers() -> None:
    models = ["asr_offline", "asr_streaming", "encoder", "a_asr_offline", "b_c_asr_streaming", "x"]
    assert recognizers(models) == ["", "a", "b_c"]
    assert newest(["a_v2", "a_v10", "b"], "a") == "a_v10"
    assert newest(["a_v2", "a_v10", "b"], "b") == "b"
    assert newest(["a_v2", "b"], None) is None
    assert newest(["a_v2"], "c") is None
    assert newest(["", "coffee"], "default") == ""
    assert newest(["coffee"], "default") is None


def test_models_are_listed() -> None:
    there = streaming("clinic_v1", "") | {"clinic_v1_asr_offline": OFFLINE, "clinic_v1_encoder": {}}
    with fake_triton(None, models=there) as fake:
        result = CliRunner().invoke(app, ["models", "--json", "--url", fake.url])
        table = CliRunner().invoke(app, ["models", "--url", fake.url])
    listed = [(m["name"], m["mode"], m["state"], m["chunk_ms"]) for m in json.loads(result.stdout)]
    assert listed == [
        ("default", "streaming", "READY", "80"),
        ("clinic_v1", "streaming", "READY", "80"),
        ("clinic_v1", "offline", "READY", ""),
    ]
    rows = [line.split() for line in table.stdout.splitlines()]
    assert rows[0] == ["name", "mode", "state", "checkpoint", "precision", "chunk", "reason"]
    assert rows[3] == ["clinic_v1", "offline", "READY", "fake", "fp32"]
