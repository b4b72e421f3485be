"""A repository that cannot be served is refused before Triton starts, with what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from server.errors import BadRepository
from server.repository import read_repository
from tests.support.toy_repository import MAX_STREAMS, write_config


def test_models_and_capacity_are_read(toy_repository: Path) -> None:
    repository = read_repository(toy_repository)
    assert repository.models == ("accumulator", "summer", "toy_streaming")
    assert repository.max_streams == MAX_STREAMS


def test_the_narrowest_stage_sets_the_capacity(toy_repository: Path) -> None:
    config = toy_repository / "accumulator" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 3"))
    assert read_repository(toy_repository).max_streams == MAX_STREAMS


def test_an_empty_folder_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(BadRepository, match="python -m export"):
        read_repository(tmp_path)


def test_a_missing_graph_is_not_exported(toy_repository: Path) -> None:
    (toy_repository / "summer" / "1" / "model.onnx").unlink()
    with pytest.raises(BadRepository, match=r"summer has no model\.onnx .*python -m export"):
        read_repository(toy_repository)


def test_a_missing_tokenizer_is_not_exported(toy_repository: Path) -> None:
    config = (
        'name: "detokenizer" backend: "earshot" max_batch_size: 1 '
        'parameters { key: "runtime" value { string_value: "tokenizers" } }'
    )
    write_config(toy_repository, "detokenizer", config)
    with pytest.raises(BadRepository, match=r"detokenizer has no tokenizer\.json"):
        read_repository(toy_repository)
    (toy_repository / "detokenizer" / "1" / "tokenizer.json").touch()
    assert "detokenizer" in read_repository(toy_repository).models


def test_an_engine_that_answers_with_text_needs_a_tokenizer(toy_repository: Path) -> None:
    config = toy_repository / "summer" / "config.pbtxt"
    text = 'output { name: "TEXT" data_type: TYPE_STRING dims: 1 }'
    config.write_text(config.read_text() + text)
    with pytest.raises(BadRepository, match=r"summer has no tokenizer\.json"):
        read_repository(toy_repository)


@pytest.mark.parametrize("text", ["many", "", "0", "-1", "1.5"])
def test_a_capacity_that_is_no_count_is_refused(toy_repository: Path, text: str) -> None:
    config = toy_repository / "summer" / "config.pbtxt"
    config.write_text(config.read_text().replace(f'"{MAX_STREAMS}"', f'"{text}"'))
    with pytest.raises(BadRepository, match=f"summer: .*'max_streams' must be .* not '{text}'"):
        read_repository(toy_repository)


def test_a_model_for_another_runtime_is_named(toy_repository: Path) -> None:
    folder = toy_repository / "encoder"
    folder.mkdir()
    (folder / "config.pbtxt").write_text('name: "encoder" platform: "tensorrt_plan"')
    with pytest.raises(BadRepository, match="encoder needs the backend 'tensorrt_plan'"):
        read_repository(toy_repository)


def test_an_earlier_export_is_named(toy_repository: Path) -> None:
    (toy_repository / "summer" / "configs").mkdir()
    with pytest.raises(BadRepository, match="exported by an earlier version: export the models"):
        read_repository(toy_repository)


def test_a_model_of_an_ensemble_that_is_missing_is_named(toy_repository: Path) -> None:
    shutil.rmtree(toy_repository / "accumulator")
    with pytest.raises(BadRepository, match=r"toy_streaming .* accumulator is not there"):
        read_repository(toy_repository)


def test_an_unknown_runtime_is_named(toy_repository: Path) -> None:
    config = toy_repository / "summer" / "config.pbtxt"
    runtime = 'parameters { key: "runtime" value { string_value: "tflite" } }'
    config.write_text(config.read_text() + runtime)
    with pytest.raises(BadRepository, match=r"'runtime' must be one of onnxruntime.* not 'tflite'"):
        read_repository(toy_repository)


def _add_ensemble(repository: Path, name: str, runtime: str) -> None:
    parameters = f'parameters {{ key: "runtime" value {{ string_value: "{runtime}" }} }}'
    audio = 'input { name: "AUDIO" } input { name: "AUDIO_LENGTH" }'
    write_config(repository, name, f'name: "{name}" platform: "ensemble" {audio} {parameters}')


def test_two_runtimes_in_one_repository_are_refused(toy_repository: Path) -> None:
    _add_ensemble(toy_repository, "first", "onnxruntime")
    _add_ensemble(toy_repository, "second", "torch")
    with pytest.raises(BadRepository, match=r"first for onnxruntime, second for torch.*their own"):
        read_repository(toy_repository)


def test_whole_files_run_on_cores_beside_engines_of_tensorrt_for_rtx(toy_repository: Path) -> None:
    _add_ensemble(toy_repository, "files", "onnxruntime")
    _add_ensemble(toy_repository, "streams", "tensorrt-rtx")
    repository = read_repository(toy_repository)
    assert repository.runtime == "tensorrt-rtx"
    runtimes = {ensemble.name: ensemble.runtime for ensemble in repository.ensembles}
    assert (runtimes["files"], runtimes["streams"]) == ("onnxruntime", "tensorrt-rtx")


def test_a_broken_config_is_quoted(toy_repository: Path) -> None:
    write_config(toy_repository, "summer", 'name: "summer')
    with pytest.raises(BadRepository, match=r"config\.pbtxt is not a model config"):
        read_repository(toy_repository)


def test_ensembles_add_the_capacity_of_stages_of_their_own(toy_repository: Path) -> None:
    config = (toy_repository / "toy_streaming" / "config.pbtxt").read_text()
    second = config.replace("toy_streaming", "second_toy")
    write_config(toy_repository, "second_toy", second)
    assert read_repository(toy_repository).max_streams == MAX_STREAMS, "both have the same stages"
    shutil.copytree(toy_repository / "summer", toy_repository / "second_summer")
    stage = (toy_repository / "summer" / "config.pbtxt").read_text()
    write_config(toy_repository, "second_summer", stage.replace('"summer"', '"second_summer"'))
    write_config(toy_repository, "second_toy", second.replace('"summer"', '"second_summer"'))
    assert read_repository(toy_repository).max_streams == 2 * MAX_STREAMS


def _add_adapter(repository: Path, name: str) -> None:
    folder = repository / "toy_streaming"
    text = (folder / "config.pbtxt").read_text()
    text = text.replace('name: "toy_streaming"', f'name: "{name}_toy_streaming"')
    text += f'parameters {{ key: "adapter" value: {{ string_value: "{name}" }} }}'
    write_config(repository, f"{name}_toy_streaming", text)


def test_adapters_share_the_streams_of_their_base(toy_repository: Path) -> None:
    config = toy_repository / "accumulator" / "config.pbtxt"
    config.write_text(
        config.read_text() + 'parameters { key: "adapters" value: { string_value: "4" } }'
    )
    for number in range(300):
        _add_adapter(toy_repository, f"clinic{number}")
    repository = read_repository(toy_repository)
    assert repository.max_streams == MAX_STREAMS
    assert [ensemble.name for ensemble in repository.ensembles] == ["toy_streaming"]
    assert len(repository.models) == 303


def test_an_ensemble_of_somebody_else_is_no_recognizer(toy_repository: Path) -> None:
    """It is served, and neither tested with silence nor limited."""
    text = (toy_repository / "toy_streaming" / "config.pbtxt").read_text()
    text = text.replace('name: "toy_streaming"', 'name: "other"').replace('"AUDIO"', '"NUMBERS"')
    write_config(toy_repository, "other", text)
    repository = read_repository(toy_repository)
    assert "other" in repository.models
    assert [ensemble.name for ensemble in repository.ensembles] == ["toy_streaming"]


def test_an_adapter_whose_base_takes_none_is_refused(toy_repository: Path) -> None:
    _add_adapter(toy_repository, "clinic")
    with pytest.raises(BadRepository, match=r"clinic_toy_streaming .* exported without adapters"):
        read_repository(toy_repository)
