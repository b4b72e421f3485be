"""Configs that contradict themselves or their graph do not load, and say why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.backends.earshot.earshot_runtime.errors import BadStage
from server.backends.earshot.earshot_runtime.graph import open_graph
from server.backends.earshot.earshot_runtime.spec import StageSpec
from tests.support.toy_repository import LONG_IDLE_S, MAX_STREAMS, save, stateless_summer_graph
from tests.support.toy_stages import model_config

Config = dict[str, Any]


def test_all_is_read_from_the_config(toy_repository: Path) -> None:
    spec = StageSpec.from_model_config(model_config(toy_repository, "summer"))
    assert [(t.name, str(t.dtype), t.dims) for t in spec.inputs] == [
        ("AUDIO", "float32", (8,)),
        ("AUDIO_LENGTH", "int32", (1,)),
    ]
    assert spec.sequence is not None
    assert spec.sequence.max_streams == MAX_STREAMS
    assert spec.sequence.max_idle_s == LONG_IDLE_S
    assert (spec.bounded_inputs, spec.max_abs) == (("AUDIO",), 8.0)
    assert (spec.length_input, spec.length_of, spec.full_length) == ("AUDIO_LENGTH", "AUDIO", 8)


def test_instances_share_an_engine_if_their_config_says_so(toy_repository: Path) -> None:
    config = model_config(toy_repository, "summer")
    config["instance_group"][0]["count"] = 3
    assert not StageSpec.from_model_config(config).shares_engine
    for value, shared in (("shared", True), ("own", False)):
        config["parameters"]["engine"] = {"string_value": value}
        assert StageSpec.from_model_config(config).shares_engine is shared


def _drop(key: str) -> Callable[[Config], None]:
    return lambda config: config["parameters"].pop(key)


def _set(key: str, value: str) -> Callable[[Config], None]:
    return lambda config: config["parameters"].update({key: {"string_value": value}})


def _string_input(config: Config) -> None:
    config["input"][0]["data_type"] = "TYPE_STRING"


def _free_dim(config: Config) -> None:
    config["input"][0]["dims"] = ["-1"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop("max_streams"), "no parameter 'max_streams'"),
        (_set("max_streams", "many"), "must be a count >= 1, not 'many'"),
        (_set("intra_op_threads", "0"), "must be a count >= 1, not '0'"),
        (_drop("length_of"), "go together"),
        (_set("bounded_inputs", "AUDIO, NOISE"), "names the input NOISE"),
        (_set("bounded_inputs", "AUDIO_LENGTH"), "AUDIO_LENGTH, which has no float type"),
        (_drop("bounded_inputs"), "go together"),
        (_drop("max_abs"), "go together"),
        (_set("engine", "each"), "'engine' must be shared or own, not 'each'"),
        (_set("max_abs", "loud"), "'max_abs' must be a number > 0, not 'loud'"),
        (_set("max_abs", "nan"), "must be a number > 0, not 'nan'"),
        (_set("max_abs", "inf"), "must be a number > 0, not 'inf'"),
        (_set("max_abs", "-8"), "must be a number > 0, not '-8'"),
        (lambda config: config.pop("sequence_batching"), "has no sequence_batching"),
        (_string_input, "TYPE_STRING"),
        (_free_dim, "needs fixed dims"),
        (lambda config: config.pop("max_batch_size"), "at least 1"),
    ],
)
def test_a_contradictory_config_is_refused(
    toy_repository: Path, damage: Callable[[Config], None], message: str
) -> None:
    config = model_config(toy_repository, "summer")
    damage(config)
    with pytest.raises(BadStage, match=message):
        StageSpec.from_model_config(config)


def _other_dims(config: Config) -> None:
    config["input"][0]["dims"] = ["9"]


def _other_name(config: Config) -> None:
    config["output"][0]["name"] = "TOTAL"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_other_dims, r"input AUDIO: the config has float32 \[9\], the graph has float32 \[8\]"),
        (_other_name, r"the config has \['TOTAL'\], the graph has \['SUM'\]"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(
    toy_repository: Path, damage: Callable[[Config], None], message: str
) -> None:
    config = model_config(toy_repository, "summer")
    damage(config)
    spec = StageSpec.from_model_config(config)
    with pytest.raises(BadStage, match=message):
        open_graph(toy_repository / "summer" / "1" / "model.onnx", spec)


def test_a_graph_without_a_pool_is_refused(toy_repository: Path) -> None:
    path = toy_repository / "summer" / "1" / "model.onnx"
    save(stateless_summer_graph(), path)
    spec = StageSpec.from_model_config(model_config(toy_repository, "summer"))
    with pytest.raises(BadStage, match=r"must have POOL for each .* has sequence_batching"):
        open_graph(path, spec)


def test_a_file_that_is_no_graph_is_refused(toy_repository: Path) -> None:
    path = toy_repository / "summer" / "1" / "model.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    spec = StageSpec.from_model_config(model_config(toy_repository, "summer"))
    with pytest.raises(BadStage, match="cannot load"):
        open_graph(path, spec)
