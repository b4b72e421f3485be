"""Figures by model are those of one recognizer only."""

from __future__ import annotations

from loadtest.service.stages import by_stage

CPU_S = {
    "triton": 1.0,
    "encoder": 2.0,
    "detokenizer": 3.0,
    "clinic_v2_encoder": 4.0,
    "clinic_v2_detokenizer": 5.0,
    "clinic_v2_encoder_offline": 6.0,
    "clinic_v2_asr_streaming": 7.0,
}


def test_only_the_recognizers_own_models_and_the_server_itself_count() -> None:
    assert by_stage(CPU_S, "") == {"triton": 1.0, "encoder": 2.0, "detokenizer": 3.0}
    assert by_stage(CPU_S, "clinic_v2") == {
        "triton": 1.0,
        "encoder": 4.0,
        "detokenizer": 5.0,
        "encoder_offline": 6.0,
    }
