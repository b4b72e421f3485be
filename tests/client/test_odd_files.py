"""Audio files as people send them: from pipes, cut short, damaged, of the wrong name or kind."""

from __future__ import annotations

import io
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from earshot import FailedSpan, InvalidAudio, _files, _mp3
from earshot._audio_file import TRUNCATED
from earshot._files import open_audio
from earshot._format import AudioFormat

RATE_HZ = 16000
TIME_S = np.arange(3 * RATE_HZ, dtype=np.float32) / RATE_HZ
SYLLABLES = (0.5 * np.sin(2 * np.pi * 200 * TIME_S) * (np.sin(8 * np.pi * TIME_S) > 0)).astype("f4")
PCM = (SYLLABLES * 32767).astype("<i2").tobytes()
FLAC_BLOCK = 4096


def wav(
    stated: int, pcm: bytes = PCM, *, before: bytes = b"", after: bytes = b"", riff: int = 0
) -> bytes:
    """Return a WAV file whose header states this length, true or not."""
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + before + b"data"
    return b"RIFF" + struct.pack("<I", riff) + body + struct.pack("<I", stated) + pcm + after


def encoded(name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    kind: Any = {"format": "OGG", "subtype": "OPUS"} if name == "opus" else {"format": name}
    soundfile.write(file, SYLLABLES, RATE_HZ, **kind, **options)
    return file.getvalue()


def read(content: bytes) -> tuple[npt.NDArray[np.float32], list[str], list[FailedSpan]]:
    """Return the samples of a file, its warnings and its damaged spans."""
    with open_audio(io.BytesIO(content)) as audio:
        samples = np.concatenate([np.asarray(block) for block in audio.blocks()])
        return samples[:, 0], audio.warnings, audio.failed


@pytest.mark.parametrize("stated", [0, 2_000_000_000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_a_wav_from_a_pipe_is_read_to_its_end(stated: int) -> None:
    samples, warnings, _ = read(wav(stated, riff=stated))
    assert samples.size == SYLLABLES.size
    assert not warnings


@pytest.mark.parametrize(
    "content",
    [
        wav(len(PCM), before=b"LIST" + struct.pack("<I", 5) + b"INFOx\0"),
        wav(len(PCM), before=b"LIST" + struct.pack("<I", 5) + b"INFOx"),
        wav(len(PCM), after=b"C2PA" + struct.pack("<I", 5000) + bytes(5000)),
        wav(0, before=b"LIST" + struct.pack("<I", 5) + b"INFOx"),
    ],
    ids=["odd", "odd and unpadded", "after the audio", "unpadded, from a pipe"],
)
def test_other_chunks_of_a_wav_are_skipped(content: bytes) -> None:
    samples, warnings, _ = read(content)
    np.testing.assert_allclose(samples, SYLLABLES, atol=1e-4)
    assert not warnings


def test_a_wav_that_ends_inside_a_sample() -> None:
    samples, _, _ = read(wav(32001, PCM[:32001]))
    assert samples.size == 16000


def test_a_header_alone() -> None:
    with pytest.raises(InvalidAudio, match="contains no audio"):
        read(wav(0, b""))


WHOLE = {
    "wav": wav(len(PCM)),
    "flac": encoded("flac"),
    "ogg": encoded("ogg"),
    "opus.ogg": encoded("opus"),
    "mp3": encoded("mp3"),
    "constant.mp3": encoded("mp3", bitrate_mode="CONSTANT"),
    "aiff": encoded("aiff"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_gives_no_warning(name: str) -> None:
    samples, warnings, failed = read(WHOLE[name])
    assert (samples.size, warnings, failed) == (SYLLABLES.size, [], [])


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("share", [0.85, 0.99])
def test_a_truncated_file_says_so(name: str, share: float) -> None:
    whole = WHOLE[name]
    samples, warnings, failed = read(whole[: int(share * len(whole))])
    assert 0 < samples.size < SYLLABLES.size
    assert (warnings, failed) == ([TRUNCATED], [])


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_states_no_length(mode: str) -> None:
    whole = encoded("mp3", bitrate_mode=mode)
    # The first frame states the length; without it, the file begins with the second one.
    frames = whole[_mp3.frame_bytes(whole[:4]) :]
    samples, warnings, _ = read(frames)
    assert samples.size >= SYLLABLES.size
    assert not warnings
    assert read(frames + b"TAG" + bytes(125))[1] == []
    assert read(frames[: len(frames) // 2 + 1])[1] == [TRUNCATED]


@pytest.mark.parametrize("holes", [[0.3], [0.3, 0.7]])
def test_a_damaged_flac_is_read_before_and_after_the_damage(holes: list[float]) -> None:
    whole = WHOLE["flac"]
    damaged = bytearray(whole)
    for share in holes:
        first = int(share * len(whole))
        damaged[first : first + 300] = bytes(300)
    samples, warnings, failed = read(bytes(damaged))
    assert samples.size == SYLLABLES.size
    assert not warnings
    assert len(failed) == len(holes)
    good = np.ones(SYLLABLES.size, bool)
    for span in failed:
        start, stop = round(span.start_s * RATE_HZ), round(span.end_s * RATE_HZ)
        assert 0 < stop - start <= 2 * FLAC_BLOCK
        assert not samples[start:stop].any()
        good[start:stop] = False
    np.testing.assert_allclose(samples[good], SYLLABLES[good], atol=1e-4)


SPEECH = np.tile(SYLLABLES, 4) + np.random.default_rng(0).normal(0, 0.02, 4 * SYLLABLES.size)


@pytest.mark.parametrize("bytes_lost", [300, 3000])
@pytest.mark.parametrize("options", [{"format": "OGG"}, {"format": "OGG", "subtype": "OPUS"}])
def test_a_damaged_ogg_is_read_before_and_after_the_damage(options: Any, bytes_lost: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, SPEECH, RATE_HZ, **options)
    whole = file.getvalue()
    middle = len(whole) // 2
    expected, _, _ = read(whole)
    samples, warnings, [span] = read(
        whole[:middle] + bytes(bytes_lost) + whole[middle + bytes_lost :]
    )
    assert not warnings
    assert samples.size == expected.size
    start, stop = round(span.start_s * RATE_HZ), round(span.end_s * RATE_HZ)
    assert 4 < span.start_s < 6 < 0.5 + span.end_s < 8
    np.testing.assert_allclose(samples[:start], expected[:start], atol=1e-4)
    # The decoder needs a moment to be itself again.
    later = stop + RATE_HZ // 2
    np.testing.assert_allclose(samples[later:], expected[later:], atol=0.01)


@pytest.mark.parametrize("bytes_lost", [300, 3000])
def test_a_damaged_mp3_is_read_before_and_after_the_damage(bytes_lost: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, SPEECH, RATE_HZ, format="MP3", bitrate_mode="CONSTANT")
    whole = file.getvalue()
    middle = len(whole) // 2
    expected, _, _ = read(whole)
    samples, warnings, [span] = read(
        whole[:middle] + bytes(bytes_lost) + whole[middle + bytes_lost :]
    )
    assert not warnings
    # The delay of the encoder stays in.
    assert 0 <= samples.size - expected.size < 0.1 * RATE_HZ
    assert 5.5 < span.start_s < 6.1
    lost_s = 12 * bytes_lost / len(whole)
    assert span.end_s - span.start_s == pytest.approx(lost_s, abs=0.1)


def test_a_name_that_says_another_format() -> None:
    assert read(WHOLE["mp3"])[0].size == SYLLABLES.size


@pytest.mark.parametrize("encoding", ["linear16", "mulaw", "alaw"])
def test_a_file_without_header(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "call.raw"
    path.write_bytes(bytes(range(250)) * 32)
    form = AudioFormat(8000, 2, encoding)  # pyright: ignore[reportArgumentType]
    with open_audio(path, form) as audio:
        assert audio.duration_s == 8000 / 2 / form.bytes_per_sample / 8000
        blocks = [bytes(block) for block in audio.blocks()]
    assert b"".join(blocks) == path.read_bytes()


def test_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(WHOLE["flac"]))
    writer.start()
    with open_audio(pipe) as audio:
        assert sum(len(np.asarray(block)) for block in audio.blocks()) == SYLLABLES.size
    writer.join()


M4A = bytes(4) + b"ftypM4A " + bytes(2000)


@pytest.mark.parametrize(
    ("content", "kind"), [(M4A, "MPEG-4"), (b"\x1aE\xdf\xa3" + bytes(99), "WebM")]
)
def test_what_is_not_read_is_named_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, kind: str
) -> None:
    monkeypatch.setattr(_files, "load_av", lambda: None)
    path = tmp_path / "voice.m4a"
    path.write_bytes(content)
    with pytest.raises(InvalidAudio) as caught, open_audio(path):
        pass
    message = str(caught.value)
    assert f"it looks like {kind}" in message
    assert "Read are wav, flac, ogg, mp3" in message
    assert "pip install './client[av]'" in message
    assert f"ffmpeg -i {path} audio.wav" in message


def test_a_file_that_nothing_reads(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "fake.m4a"
    path.write_bytes(M4A)
    with pytest.raises(InvalidAudio, match="it looks like MPEG-4"), open_audio(path):
        pass


def compressed(path: Path, codec: str, rate_hz: int) -> bytes:
    """Return the syllables in a container of FFmpeg."""
    av = pytest.importorskip("av")
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        resampler = av.AudioResampler(stream.format, "mono", rate_hz)
        frame = av.AudioFrame.from_ndarray(SYLLABLES[None], format="flt", layout="mono")
        frame.sample_rate = RATE_HZ
        for converted in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [("voice.m4a", "aac", 16000), ("voice.webm", "libopus", 48000), ("voice.mka", "ac3", 48000)],
)
def test_files_of_ffmpeg(tmp_path: Path, name: str, codec: str, rate_hz: int) -> None:
    content = compressed(tmp_path / name, codec, rate_hz)
    with open_audio(tmp_path / name) as audio:
        assert (audio.sample_rate_hz, audio.channels) == (rate_hz, 1)
        assert audio.duration_s == pytest.approx(3, abs=0.1)
    samples, warnings, _ = read(content)
    assert samples.size / rate_hz == pytest.approx(3, abs=0.1)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.1)
    assert not warnings


def test_a_truncated_webm(tmp_path: Path) -> None:
    content = compressed(tmp_path / "voice.webm", "libopus", 48000)
    samples, warnings, _ = read(content[: len(content) // 2])
    assert 0 < samples.size < 2.5 * 48000
    assert warnings == [TRUNCATED]


def test_a_damaged_m4a_is_read_before_and_after_the_damage(tmp_path: Path) -> None:
    whole = compressed(tmp_path / "voice.m4a", "aac", RATE_HZ)
    middle = whole.index(b"mdat") + len(whole) // 2
    damaged = whole[:middle] + b"\xff" * 300 + whole[middle + 300 :]
    expected, _, _ = read(whole)
    samples, warnings, [span] = read(damaged)
    assert abs(samples.size - expected.size) <= 1024
    assert not warnings
    assert 0.5 < span.start_s < span.end_s < 2.5
    first, last = RATE_HZ // 2, int(2.5 * RATE_HZ)
    np.testing.assert_allclose(samples[:first], expected[:first], atol=1e-4)
    np.testing.assert_allclose(samples[last:40000], expected[last:40000], atol=1e-4)
