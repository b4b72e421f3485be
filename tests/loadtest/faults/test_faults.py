"""Every fault of a real server, and what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.faults.document import FaultsResult
from loadtest.faults.measure import measure
from loadtest.options import LoadOptions
from tests.support.project import PROJECT, Exported


@pytest.mark.slow
@pytest.mark.triton
def test_stages_that_die_end_the_server_and_a_drain_ends_the_streams(
    exported: Exported, tmp_path: Path
) -> None:
    speech = PROJECT / "recordings" / "jfk"
    options = LoadOptions(repository=exported(320), speech=speech, min_stream_s=4)
    measure(options, 2, lambda line: None).write(tmp_path / "faults.json")
    result = FaultsResult.from_json(tmp_path / "faults.json")
    *broken, drained = result.faults
    assert {fault.process for fault in broken} >= {"encoder_0_0", "decoder_0_0"}
    for fault in broken:
        assert fault.exit_code == 1
        assert fault.finished_streams == 0
        assert fault.said.startswith("error:")
    assert (drained.exit_code, drained.finished_streams) == (0, 2)
    assert drained.refusal_ms is not None
    assert drained.said == "drained: all streams have ended"
    assert result.dead_path is not None
    assert (result.dead_path.resumed_streams, result.dead_path.right_streams) == (2, 2)
    assert len(result.dead_path.recovered_s) == 2
