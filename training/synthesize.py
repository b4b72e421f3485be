"""Synthetic speech: free text-to-speech engines, each sentence in a manner of its own.

Two engines are neural (neural_voices.py). The others are Debian packages: `flite`, `festival` with
festvox-kallpc16k, festvox-kdlpc16k and festvox-us-slt-hts, and `espeak-ng`. A shard is a function
of its number alone, so that shards can be made in any order, by several processes, and again.
"""

import random
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from training.features import Frames, log_mel, read_audio, write_shard
from training.neural_voices import speak_hibari, speak_joe
from training.voice_settings import VoiceSettings, draw_voice_settings

UTTERANCES_PER_SHARD = 200
WORDS_SHARDS = 45
SHORT_SENTENCE_WORDS = 9
SHORT_SHARDS = 30
"""The first shards hold short sentences only: alignments are learnt from them soonest."""

ENGINE_SHARE = {"hibari": 0.5, "joe": 0.08, "flite": 0.2, "festival": 0.08, "espeak": 0.14}


def shard_name(number: int) -> str:
    """Name of a shard of sentences."""
    return f"tts-{number:05d}"


def words_shard_name(number: int) -> str:
    """Name of a shard of single words and pairs."""
    return f"tts-words-{number:05d}"


def make_shard(folder: Path, number: int, sentences: Sequence[str]) -> None:
    """Speaks and writes shard `number`, which takes its part of all `sentences`."""
    _speak(folder, shard_name(number), _sentences_of(number, sentences), random.Random(number))


def make_words_shard(folder: Path, number: int, sentences: Sequence[str]) -> None:
    """Speaks and writes a shard of one to three words at a time, cut out of sentences.

    So few words can hardly be aligned wrongly: a new model finds out from them what a piece of
    text sounds like.
    """
    rng = random.Random(f"words {number}")
    spoken = [_few_words(rng.choice(sentences), rng) for _ in range(UTTERANCES_PER_SHARD)]
    _speak(folder, words_shard_name(number), spoken, rng)


def _few_words(sentence: str, rng: random.Random) -> str:
    words = sentence.split()
    count = rng.choice((1, 1, 1, 2, 2, 3))
    first = rng.randrange(max(1, len(words) - count + 1))
    return " ".join(words[first : first + count])


def _speak(folder: Path, name: str, spoken: Sequence[str], rng: random.Random) -> None:
    engine = rng.choices(list(ENGINE_SHARE), list(ENGINE_SHARE.values()))[0]
    manners = [draw_voice_settings(engine, rng) for _ in spoken]
    speak = {
        "hibari": speak_hibari,
        "joe": speak_joe,
        "flite": _speak_flite,
        "festival": _speak_festival,
        "espeak": _speak_espeak,
    }[engine]
    with tempfile.TemporaryDirectory() as scratch:
        paths = speak(spoken, manners, Path(scratch))
        frames = [_frames(path, manner.speed) for path, manner in zip(paths, manners, strict=True)]
    write_shard(folder, name, zip(frames, spoken, strict=True))


def _sentences_of(number: int, sentences: Sequence[str]) -> list[str]:
    short_only = number < SHORT_SHARDS
    pool = [s for s in sentences if not short_only or len(s.split()) <= SHORT_SENTENCE_WORDS]
    order = list(range(len(pool)))
    random.Random(int(short_only)).shuffle(order)
    first = (number if short_only else number - SHORT_SHARDS) * UTTERANCES_PER_SHARD
    return [pool[order[(first + i) % len(pool)]] for i in range(UTTERANCES_PER_SHARD)]


def _frames(path: Path, speed: float) -> Frames:
    return log_mel(read_audio(path, speed))


def _speak_flite(
    sentences: Sequence[str], manners: Sequence[VoiceSettings], scratch: Path
) -> list[Path]:
    paths = [scratch / f"{i}.wav" for i in range(len(sentences))]
    for path, sentence, manner in zip(paths, sentences, manners, strict=True):
        settings = ("--setf", f"duration_stretch={manner.stretch:.3f}")
        settings += ("--setf", f"f0_shift={manner.pitch:.3f}")
        settings += ("--setf", f"int_f0_target_mean={110 * manner.pitch:.1f}")
        _run("flite", "-voice", manner.voice, *settings, "-t", sentence, str(path))
    return paths


def _speak_espeak(
    sentences: Sequence[str], manners: Sequence[VoiceSettings], scratch: Path
) -> list[Path]:
    paths = [scratch / f"{i}.wav" for i in range(len(sentences))]
    for path, sentence, manner in zip(paths, sentences, manners, strict=True):
        words_per_minute = str(round(165 / manner.stretch))
        pitch = str(round(50 * manner.pitch))
        voice = ("-v", manner.voice, "-s", words_per_minute, "-p", pitch)
        _run("espeak-ng", *voice, "-w", str(path), sentence)
    return paths


def _speak_festival(
    sentences: Sequence[str], manners: Sequence[VoiceSettings], scratch: Path
) -> list[Path]:
    paths = [scratch / f"{i}.wav" for i in range(len(sentences))]
    script = scratch / "speak.scm"
    with script.open("w") as lines:
        for path, sentence, manner in zip(paths, sentences, manners, strict=True):
            lines.write(f"(voice_{manner.voice})\n")
            lines.write(f"(Parameter.set 'Duration_Stretch {manner.stretch:.3f})\n")
            lines.write(f'(utt.save.wave (SynthText "{sentence}") "{path}" \'riff)\n')
    _run("festival", "-b", str(script))
    return paths


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        raise SystemExit(
            f"{command[0]} not found: install the Debian packages of this file's head"
        ) from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)}: {error.stderr.decode()[-500:]}") from error
