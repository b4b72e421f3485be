"""Augmentation: shapes, levels and bands follow the arguments."""

import math

import numpy as np
import pytest

from training.augment import (
    LOG_FLOOR,
    LogMel,
    Surroundings,
    augment,
    change_level,
    change_tempo,
    colour_of,
    limit_band,
    mask_blocks,
    match_colour,
    mel_bin,
    mix_noise,
    reverberate,
    shift_formants,
)
from training.features import MEL_BINS, SAMPLE_RATE_HZ, log_mel


@pytest.fixture
def speech() -> LogMel:
    rng = np.random.default_rng(0)
    return rng.normal(-8, 3, (300, MEL_BINS)).astype(np.float32)


def power(frames: LogMel) -> float:
    return float(np.exp(frames).mean())


def test_tempo_changes_length_and_keeps_both_ends(speech: LogMel) -> None:
    faster = change_tempo(speech, 1.25)
    assert faster.shape == (240, MEL_BINS)
    np.testing.assert_allclose(faster[[0, -1]], speech[[0, -1]], rtol=1e-5)


def test_formants_move_up_the_mel_axis() -> None:
    frames = np.full((10, MEL_BINS), -12, np.float32)
    frames[:, 40] = 0
    assert shift_formants(frames, 1.1)[0].argmax() == 44
    assert shift_formants(frames, 0.9)[0].argmax() == 36


def test_level_is_in_decibels(speech: LogMel) -> None:
    louder = change_level(speech, 10.0)
    assert power(louder) / power(speech) == pytest.approx(10, rel=1e-3)
    silence = np.full((5, MEL_BINS), LOG_FLOOR, np.float32)
    np.testing.assert_allclose(change_level(silence, -20.0), silence)


def test_level_of_features_is_level_of_samples() -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, SAMPLE_RATE_HZ).astype(np.float32)
    from_samples = log_mel(samples * 10 ** (-6 / 20)).astype(np.float32)
    from_features = change_level(log_mel(samples).astype(np.float32), -6.0)
    loud = from_samples > -10  # Below, the extractor's guard against log 0 is no longer negligible.
    assert loud.mean() > 0.5
    np.testing.assert_allclose(from_features[loud], from_samples[loud], atol=0.02)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_comes_at_the_ratio_asked_for(speech: LogMel, snr_db: float) -> None:
    noise = np.random.default_rng(2).normal(-3, 1, (77, MEL_BINS)).astype(np.float32)
    added = power(mix_noise(speech, noise, snr_db)) - power(speech)
    assert 10 * math.log10(power(speech) / added) == pytest.approx(snr_db, abs=0.3)


def test_reverberation_has_the_power_of_a_decaying_impulse_response() -> None:
    rng = np.random.default_rng(3)
    spoken = np.tile([True] * 2_000 + [False] * 6_000, 16)
    samples = (rng.normal(0, 0.1, len(spoken)) * spoken).astype(np.float32)
    time_s = np.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
    echoes = rng.normal(0, 1, len(time_s)) * 10 ** (-3 * time_s / 0.4)
    response = echoes / np.linalg.norm(echoes) * 10 ** (-3 / 20)
    response[0] = 1
    heard = log_mel(np.convolve(samples, response)[: len(samples)].astype(np.float32))
    # The decay falls from 0.53 s in the lowest bin, over 0.4 s in the middle, to 0.27 s.
    found = reverberate(log_mel(samples).astype(np.float32), 0.4 / 0.75, 3.0)
    for first in (0, 15, 20, 30, 40):  # frames of 10 ms since each of 16 onsets
        frames = [50 * onset + frame for onset in range(16) for frame in range(first, first + 5)]
        expected = power(heard[frames, 35:45].astype(np.float32))
        assert 10 * math.log10(power(found[frames, 35:45]) / expected) == pytest.approx(0, abs=1.5)


def test_speech_without_reverberation_stays_as_it_is(speech: LogMel) -> None:
    np.testing.assert_allclose(reverberate(speech, 0.5, 100.0), speech, atol=0.01)
    assert len(reverberate(speech[:1], 0.5, 3.0)) == 1


def test_band_limits_leave_the_band_alone(speech: LogMel) -> None:
    limited = limit_band(speech, 300, 3400, -15.0)
    low, high = mel_bin(300), mel_bin(3400)
    np.testing.assert_array_equal(limited[:, low:high], speech[:, low:high])
    assert limited[:, :low].max() <= -15.0
    assert limited[:, high:].max() <= -15.0


def test_a_colour_is_taken_over_by_the_share_asked_for(speech: LogMel) -> None:
    target = colour_of(speech * 0.8 + 1)
    wholly = colour_of(match_colour(speech, target, 1.0))
    np.testing.assert_allclose(wholly.mean, target.mean, atol=0.05)
    np.testing.assert_allclose(wholly.deviation, target.deviation, atol=0.05)
    half = colour_of(match_colour(speech, target, 0.5))
    np.testing.assert_allclose(half.mean, (colour_of(speech).mean + target.mean) / 2, atol=0.05)
    unmoved = match_colour(speech, target, 0.0)
    np.testing.assert_allclose(unmoved, np.maximum(speech, LOG_FLOOR), atol=1e-4)


def test_a_colour_changes_silence_within_bounds() -> None:
    silence = np.full((50, MEL_BINS), LOG_FLOOR, np.float32)
    colour = colour_of(np.random.default_rng(3).normal(-8, 3, (99, MEL_BINS)).astype(np.float32))
    moved = match_colour(silence, colour, 1.0)
    assert np.isfinite(moved).all()
    np.testing.assert_allclose(moved, np.broadcast_to(colour.mean, moved.shape), atol=1e-3)


@pytest.mark.parametrize("tone_hz", [500, 2000, 5000])
def test_mel_bins_lie_where_the_extractor_puts_them(tone_hz: int) -> None:
    seconds = np.arange(SAMPLE_RATE_HZ, dtype=np.float32) / SAMPLE_RATE_HZ
    loudest = log_mel(np.sin(2 * np.pi * tone_hz * seconds))[50].argmax()
    assert abs(int(loudest) - mel_bin(tone_hz)) <= 1


def test_masks_take_a_part_only(speech: LogMel) -> None:
    for seed in range(20):
        masked = mask_blocks(speech, np.random.default_rng(seed))
        assert masked.shape == speech.shape
        assert (masked != speech).mean() < 0.8


def test_augment_gives_finite_float32_and_spares_its_input(speech: LogMel) -> None:
    before = speech.copy()
    around = Surroundings([speech[:50]], [colour_of(speech[:50] - 2)])
    for seed in range(50):
        frames = augment(speech, around, np.random.default_rng(seed))
        assert frames.dtype == np.float32
        assert np.isfinite(frames).all()
        assert frames.shape[1] == MEL_BINS
    np.testing.assert_array_equal(speech, before)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_augment_takes_the_shortest_utterances(length: int) -> None:
    frames = np.full((length, MEL_BINS), -9, np.float32)
    for seed in range(30):
        around = Surroundings([frames], [colour_of(frames)])
        assert len(augment(frames, around, np.random.default_rng(seed))) >= 1
