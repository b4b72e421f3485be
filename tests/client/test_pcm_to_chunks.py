"""Chunks depend on the audio alone, not on the pieces in which it is passed."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from earshot import InvalidAudio, Pcm
from earshot._chunker import Chunk, Chunker
from earshot._format import ENCODINGS, AudioFormat, Encoding
from earshot._pcm import PcmReader
from hypothesis import given, settings
from hypothesis import strategies as st

MODEL_RATE_HZ = 16000
CHUNK_SAMPLES = 1280
LEAD_SAMPLES = 1024

RATES_HZ = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])


def chunks_of(pieces: Iterable[Pcm], rate_hz: float = MODEL_RATE_HZ, channels: int = 1):
    reader = PcmReader(AudioFormat(rate_hz, channels), MODEL_RATE_HZ)
    chunker = Chunker(CHUNK_SAMPLES, LEAD_SAMPLES)
    chunks = [chunk for piece in pieces for chunk in chunker.push(reader.read(piece))]
    return [*chunks, *chunker.push(reader.flush()), chunker.end()]


def samples_of(chunks: Iterable[Chunk]) -> npt.NDArray[np.float32]:
    """Return the audio of the chunks, without the zeros before and after it."""
    valid = [np.frombuffer(chunk.audio, "<f4")[: chunk.length] for chunk in chunks]
    return np.concatenate(valid)[LEAD_SAMPLES:]


def noise(frames: int, channels: int = 1, seed: int = 0) -> npt.NDArray[np.int16]:
    shape = frames if channels == 1 else (frames, channels)
    return np.random.default_rng(seed).integers(-32768, 32768, shape).astype(np.int16)


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[int]:
    """Return borders of pieces, some of them empty."""
    inner = draw(st.lists(st.integers(0, length), max_size=12))
    return [0, *sorted(inner), length]


@given(data=st.data(), rate_hz=RATES_HZ, channels=st.integers(1, 3), seed=st.integers(0, 9))
@settings(deadline=None)
def test_any_split_gives_the_same_chunks(
    data: st.DataObject, rate_hz: int, channels: int, seed: int
) -> None:
    frames = data.draw(st.integers(0, rate_hz // 2))
    audio = noise(frames, channels, seed)
    if data.draw(st.booleans(), label="as float"):
        audio = audio.astype(np.float32) / 32768
    borders = data.draw(cuts(frames))
    pieces = [audio[a:b] for a, b in itertools.pairwise(borders)]
    assert chunks_of(pieces, rate_hz, channels) == chunks_of([audio], rate_hz, channels)


@given(data=st.data(), rate_hz=RATES_HZ, channels=st.integers(1, 3))
@settings(deadline=None)
def test_bytes_may_be_cut_inside_a_sample(data: st.DataObject, rate_hz: int, channels: int) -> None:
    audio = noise(500, channels)
    raw = audio.astype("<i2").tobytes()
    borders = data.draw(cuts(len(raw)))
    pieces = [raw[a:b] for a, b in itertools.pairwise(borders)]
    assert chunks_of(pieces, rate_hz, channels) == chunks_of([audio], rate_hz, channels)


@given(data=st.data(), channels=st.integers(2, 4))
@settings(deadline=None)
def test_interleaved_samples_may_be_cut_inside_a_frame(data: st.DataObject, channels: int) -> None:
    audio = noise(300, channels)
    flat = audio.reshape(-1)
    borders = data.draw(cuts(len(flat)))
    pieces = [flat[a:b] for a, b in itertools.pairwise(borders)]
    assert chunks_of(pieces, channels=channels) == chunks_of([audio], channels=channels)


def test_samples_arrive_one_by_one_as_well() -> None:
    audio = noise(1500, channels=2)
    one_by_one = [audio[i : i + 1] for i in range(len(audio))]
    assert chunks_of(one_by_one, 44100, 2) == chunks_of([audio], 44100, 2)


@given(frames=st.integers(0, 4 * CHUNK_SAMPLES))
@settings(deadline=None)
def test_chunks_hold_lead_audio_and_padding_exactly(frames: int) -> None:
    audio = noise(frames)
    chunks = chunks_of([audio])
    stream = np.concatenate([np.frombuffer(chunk.audio, "<f4") for chunk in chunks])
    expected = np.zeros_like(stream)
    expected[LEAD_SAMPLES : LEAD_SAMPLES + frames] = audio / np.float32(32768)
    np.testing.assert_array_equal(stream, expected)
    assert len(chunks) == (LEAD_SAMPLES + frames) // CHUNK_SAMPLES + 1
    assert sum(chunk.length for chunk in chunks) == LEAD_SAMPLES + frames
    assert all(chunk.length == CHUNK_SAMPLES for chunk in chunks[:-1])
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_first_chunk_needs_less_audio() -> None:
    reader = PcmReader(AudioFormat(MODEL_RATE_HZ), MODEL_RATE_HZ)
    chunker = Chunker(CHUNK_SAMPLES, LEAD_SAMPLES)
    needed = CHUNK_SAMPLES - LEAD_SAMPLES
    assert not list(chunker.push(reader.read(noise(needed - 1))))
    assert len(list(chunker.push(reader.read(noise(1))))) == 1


def test_int16_and_float_are_the_same_audio() -> None:
    audio = noise(3000)
    assert chunks_of([audio]) == chunks_of([audio.astype(np.float32) / 32768])
    assert chunks_of([audio]) == chunks_of([audio.astype(np.float64) / 32768])


def test_channels_are_averaged() -> None:
    left, right = noise(3000, seed=1) // 2, noise(3000, seed=2) // 2
    stereo = np.stack([left, right], axis=1)
    mean = (left.astype(np.float32) + right) / 2 / 32768
    assert chunks_of([stereo], channels=2) == chunks_of([mean])


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_keeps_length_pitch_and_time(rate_hz: int) -> None:
    def tone(rate_hz: int) -> npt.NDArray[np.float32]:
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate_hz, dtype=np.float32) / rate_hz)

    resampled = samples_of(chunks_of([tone(rate_hz)], rate_hz))
    assert len(resampled) == MODEL_RATE_HZ
    middle = slice(1000, -1000)
    np.testing.assert_allclose(resampled[middle], tone(MODEL_RATE_HZ)[middle], atol=1e-3)


def test_duration_is_that_of_the_audio_given() -> None:
    reader = PcmReader(AudioFormat(44100, 2), MODEL_RATE_HZ)
    reader.read(noise(22050, channels=2))
    assert reader.duration_s == 0.5


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (np.array([0.1, np.nan], np.float32), r"sample 701, at 0\.044 s, is nan"),
        (np.array([np.inf, 0.1], np.float32), r"sample 700, at 0\.044 s, is inf"),
        (np.array([-np.inf], np.float32), r"must be finite"),
        (noise(100).astype(np.float32), r"pass them as int16 or divide by 32768"),
        (np.zeros(10, np.int32), r"expected int16 or float32 samples, got int32"),
        (np.zeros((10, 2), np.int16), r"\[n\] or \[frames, 1\], got shape \(10, 2\)"),
        ([0.0, 0.1], r"expected bytes or a numpy array, got list"),
    ],
)
def test_unfit_audio_is_refused_and_leaves_no_trace(piece: Pcm, message: str) -> None:
    audio = noise(2000)
    reader = PcmReader(AudioFormat(MODEL_RATE_HZ), MODEL_RATE_HZ)
    chunker = Chunker(CHUNK_SAMPLES, LEAD_SAMPLES)
    chunks = list(chunker.push(reader.read(audio[:700])))
    with pytest.raises(InvalidAudio, match=message):
        reader.read(piece)
    chunks += chunker.push(reader.read(audio[700:]))
    assert [*chunks, chunker.end()] == chunks_of([audio])


def test_a_little_overshoot_is_audio() -> None:
    loud = np.array([1.5, -1.5], np.float32)
    np.testing.assert_array_equal(samples_of(chunks_of([loud])), loud)


@pytest.mark.parametrize("rate_hz", [0, -8000, 1, 1e-3, 999.9, 768_001, 1e12, math.inf, math.nan])
def test_impossible_rates_are_refused(rate_hz: float) -> None:
    message = f"expected sample_rate_hz from 1000 to 768000, got {rate_hz}"
    with pytest.raises(InvalidAudio, match=re.escape(message)):
        AudioFormat(rate_hz)


@pytest.mark.parametrize("rate_hz", [1000, 768_000])
def test_the_lowest_and_the_highest_rate(rate_hz: int) -> None:
    assert len(samples_of(chunks_of([noise(rate_hz)], rate_hz))) == MODEL_RATE_HZ


def test_no_channel_is_refused() -> None:
    with pytest.raises(InvalidAudio, match="channels of at least 1, got 0"):
        AudioFormat(MODEL_RATE_HZ, 0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("flat", [True, False])
def test_a_bad_sample_is_named_by_its_place_in_the_audio(channels: int, flat: bool) -> None:
    audio = np.zeros((8000, channels), np.float32)
    audio[5000, -1] = np.nan
    pieces = np.array_split(audio, 7)
    reader = PcmReader(AudioFormat(8000, channels), MODEL_RATE_HZ)
    with pytest.raises(
        InvalidAudio, match=r"^sample 5000, at 0\.625 s, is nan: audio must be finite"
    ):
        for piece in pieces:
            reader.read(piece.reshape(-1) if flat else piece)


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_g711_is_what_libsndfile_decodes(encoding: Encoding, subtype: str) -> None:
    raw = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(raw), samplerate=8000, channels=1, format="RAW", subtype=subtype, dtype="int16"
    )
    np.testing.assert_array_equal(AudioFormat(8000, encoding=encoding).decode(raw), expected)


@given(data=st.data(), encoding=st.sampled_from(ENCODINGS), channels=st.integers(1, 3))
@settings(deadline=None)
def test_bytes_of_any_encoding_may_be_cut_anywhere(
    data: st.DataObject, encoding: Encoding, channels: int
) -> None:
    raw = noise(300, channels).tobytes()
    borders = data.draw(cuts(len(raw)))

    def read(pieces: list[bytes]) -> npt.NDArray[np.float32]:
        reader = PcmReader(AudioFormat(MODEL_RATE_HZ, channels, encoding), MODEL_RATE_HZ)
        return np.concatenate([reader.read(piece) for piece in pieces])

    np.testing.assert_array_equal(
        read([raw[a:b] for a, b in itertools.pairwise(borders)]), read([raw])
    )


def test_one_channel_is_chosen() -> None:
    left, right = noise(3000, seed=1), noise(3000, seed=2)
    stereo = np.stack([left, right], axis=1)
    for channel, alone in ((1, left), (2, right)):
        reader = PcmReader(AudioFormat(MODEL_RATE_HZ, 2, channel=channel), MODEL_RATE_HZ)
        np.testing.assert_array_equal(
            np.concatenate([reader.read(stereo[:999]), reader.read(stereo[999:])]),
            alone.astype(np.float32) / 32768,
        )
        assert not reader.warnings
    with pytest.raises(InvalidAudio, match="a channel from 1 to 2, which the audio has, got 3"):
        AudioFormat(MODEL_RATE_HZ, 2, channel=3)


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(InvalidAudio, match="linear16, mulaw, alaw, got 'opus'"):
        AudioFormat(8000, encoding=cast("Encoding", "opus"))


LEFT, RIGHT = (noise(8000, seed=seed) / np.float32(32768) for seed in (1, 2))


@pytest.mark.parametrize(
    ("channels", "cancel"),
    [
        ([LEFT, -LEFT], True),
        ([LEFT, -LEFT + 0.05 * RIGHT], True),
        ([LEFT, LEFT, -LEFT, -LEFT], True),
        ([LEFT, LEFT], False),
        ([LEFT, RIGHT], False),
        ([LEFT, 0 * LEFT], False),
        ([LEFT, 0 * LEFT, 0 * LEFT, 0 * LEFT, 0 * LEFT, 0 * LEFT], False),
        ([0 * LEFT, 0 * LEFT], False),
        ([1e-4 * LEFT, -1e-4 * LEFT], False),
    ],
)
def test_channels_that_cancel_each_other_are_noticed(
    channels: list[npt.NDArray[np.float32]], cancel: bool
) -> None:
    reader = PcmReader(AudioFormat(MODEL_RATE_HZ, len(channels)), MODEL_RATE_HZ)
    reader.read(np.stack(channels, axis=1))
    assert bool(reader.warnings) == cancel
