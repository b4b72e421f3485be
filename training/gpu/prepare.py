"""Decode recordings and synthesize sentences in many processes, while training runs.

Shards appear one by one and are complete as soon as they are visible: training reads the existing
ones. Synthesis continues until the requested hours are made or its time is over.
"""

import multiprocessing
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from training.corpora import (
    MIN_SPEAKERS_TO_HOLD_OUT,
    SAME_SPEED,
    SOUND_SUFFIXES,
    corpora,
    is_held_out,
    join_words,
    read_corpus,
)
from training.features import SAMPLE_RATE_HZ, Recording, read_audio
from training.gpu.environment import hide_optional_packages
from training.gpu.sound import Pcm, to_pcm, write_sound
from training.text import read_sentences
from training.voice_settings import draw_voice_settings

SENTENCES_PER_SHARD = 100
NOISE = "noise"


def prepare_sound(speech: Path, folder: Path, jobs: int, hours: float, minutes: float) -> None:
    """Decode all recordings and synthesize speech, in `jobs` processes.

    Args:
        speech: The bundled recordings, laid out as the README says.
        folder: Folder for the shards; existing shards are kept.
        jobs: Processes to run.
        hours: Total hours of synthetic speech to make in this call.
        minutes: Time after which no further shard is begun.
    """
    limits = (hours, time.monotonic() + 60 * minutes)
    context = multiprocessing.get_context("fork")
    order = sorted(corpora(speech), key=lambda name: -_bytes(speech / "train" / name))
    recorded = [*order, NOISE]
    began = time.monotonic()
    made: Any = context.Value("d", 0.0)
    workers = [
        context.Process(
            target=_work, args=(speech, folder, recorded[first::jobs], (first, jobs), limits, made)
        )
        for first in range(jobs)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(5)
        elapsed = time.monotonic() - began
        print(f"{made.value / 3600:.2f} h synthesized after {elapsed:.0f} s", flush=True)
    (folder / "SYNTHESIS_ENDED").touch()


def _work(
    speech: Path,
    folder: Path,
    recorded: Sequence[str],
    turn: tuple[int, int],
    limits: tuple[float, float],
    made: Any,
) -> None:
    """Do one process's share: its recordings first, then every `turn[1]`-th shard of speech."""
    began = time.monotonic()
    for corpus in recorded:
        _decode(speech, folder, corpus)
        print(f"{corpus} decoded after {time.monotonic() - began:.1f} s", flush=True)
    _speak_shards(speech, folder, *turn, limits, made)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _decode(speech: Path, folder: Path, corpus: str) -> None:
    if corpus == NOISE:
        if not (folder / f"{NOISE}.tsv").exists():
            write_sound(folder, NOISE, _noises(speech / "noise"))
        return
    parts: dict[str, list[Recording]] = {"real": [], "dev": []}
    recordings = read_corpus(speech, corpus)
    many = len({recording.speaker for recording in recordings}) >= MIN_SPEAKERS_TO_HOLD_OUT
    for recording in recordings:
        held_out = many and is_held_out(corpus, recording.speaker)
        parts["dev" if held_out else "real"].append(recording)
    for part, members in parts.items():
        name = f"{part}-{corpus}"
        if members and not (folder / f"{name}.tsv").exists():
            joined = join_words(members, SAME_SPEED)
            write_sound(folder, name, ((to_pcm(samples), text) for samples, text in joined))


def _noises(folder: Path) -> Iterator[tuple[Pcm, str]]:
    for path in sorted(folder.iterdir()):
        if path.suffix in SOUND_SUFFIXES:
            try:
                samples = read_audio(path)
            except soundfile.LibsndfileError:  # An unreadable clip is no reason to stop.
                continue
            yield to_pcm(samples), ""


def _speak_shards(
    speech: Path, folder: Path, first: int, step: int, limits: tuple[float, float], made: Any
) -> None:
    """Make every `step`-th shard until all processes together have made enough."""
    hours, deadline = limits
    sentences = read_sentences(speech / "train" / "text" / "sentences.txt")
    number = first
    while made.value < 3600 * hours and time.monotonic() < deadline:
        name = f"tts-{number:05d}"
        if not (folder / f"{name}.tsv").exists():
            spoken = list(_speak(number, sentences))
            write_sound(folder, name, spoken)
            with made.get_lock():
                made.value += sum(len(samples) for samples, _ in spoken) / SAMPLE_RATE_HZ
        number += step


def _speak(number: int, sentences: Sequence[str]) -> Iterator[tuple[Pcm, str]]:
    """Speak the sentences of one shard, each with its own voice settings."""
    rng = random.Random(f"shard {number}")
    noise = np.random.default_rng(number)
    voice, dsp = load_hibari()
    for sentence in sentences_of(number, sentences):
        settings = draw_voice_settings("hibari", rng)
        parts = [np.zeros(0, np.float32)]
        for phonemes in voice.phonemize(sentence):
            feeds = {
                "ids": np.array([voice.ids(phonemes)], np.int64),
                "speed": np.array([1 / settings.stretch], np.float32),
            }
            lh, th, ln, lr, phi, f0_hz = (output[0] for output in voice.sess.run(None, feeds))
            parts.append(dsp.synth(lh, th, ln, lr, phi, f0_hz * settings.pitch, noise))
        samples = soxr.resample(np.concatenate(parts), dsp.SR * settings.speed, SAMPLE_RATE_HZ)
        yield to_pcm(samples), sentence


def sentences_of(number: int, sentences: Sequence[str]) -> list[str]:
    """Return the sentences of a shard; each pass through all sentences has its own order."""
    shards = max(1, len(sentences) // SENTENCES_PER_SHARD)
    order = list(range(len(sentences)))
    random.Random(number // shards).shuffle(order)
    first = number % shards * SENTENCES_PER_SHARD
    return [sentences[i] for i in order[first : first + SENTENCES_PER_SHARD]]


_loaded: list[Any] = []


def load_hibari() -> tuple[Any, Any]:
    """Return the voice and its signal processing, patched to use torch's Fourier transforms.

    The machine's scipy may need another numpy than the bundled one.
    """
    if not _loaded:
        hide_optional_packages()
        import torch
        from hibari import Hibari, dsp

        torch.set_num_threads(1)

        def rfft(x: Any, axis: int) -> Any:
            return torch.fft.rfft(torch.from_numpy(np.ascontiguousarray(x)), dim=axis).numpy()

        def irfft(x: Any, n: int, axis: int) -> Any:
            return torch.fft.irfft(torch.from_numpy(np.ascontiguousarray(x)), n, axis).numpy()

        dsp.rfft, dsp.irfft = rfft, irfft
        _loaded.extend((Hibari(), dsp))
    return _loaded[0], _loaded[1]


def add_site(folder: Path) -> None:
    """Make the bundled packages importable, after the installed ones."""
    sys.path.append(str(folder))
