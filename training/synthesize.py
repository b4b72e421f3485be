"""Synthesize speech with free engines, each sentence with its own voice settings.

Two engines are neural (neural_voices.py). The others are Debian packages: `flite`, `festival` with
festvox-kallpc16k, festvox-kdlpc16k and festvox-us-slt-hts, and `espeak-ng`. A shard depends only on
its number, so shards can be made in any order, by several processes, and repeatedly.
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
"""The first shards contain only short sentences, from which alignments are learnt first."""

ENGINE_SHARE = {"hibari": 0.5, "joe": 0.08, "flite": 0.2, "festival": 0.08, "espeak": 0.14}


def shard_name(number: int) -> str:
    """Return the name of a shard of sentences."""
    return f"tts-{number:05d}"


def words_shard_name(number: int) -> str:
    """Return the name of a shard of single words and pairs."""
    return f"tts-words-{number:05d}"


def make_shard(folder: Path, number: int, sentences: Sequence[str]) -> None:
    """Synthesize and write shard `number`, with its share of all `sentences`."""
    _speak(folder, shard_name(number), _sentences_of(number, sentences), random.Random(number))


def make_words_shard(folder: Path, number: int, sentences: Sequence[str]) -> None:
    """Synthesize and write a shard of one to three words at a time, cut from sentences.

    Such short texts can hardly be misaligned, so a new model first learns from them how a piece of
    text sounds.
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
    voice_settings = [draw_voice_settings(engine, rng) for _ in spoken]
    speak = {
        "hibari": speak_hibari,
        "joe": speak_joe,
        "flite": _speak_flite,
        "festival": _speak_festival,
        "espeak": _speak_espeak,
    }[engine]
    with tempfile.TemporaryDirectory() as scratch:
        paths = speak(spoken, voice_settings, Path(scratch))
        pairs = zip(paths, voice_settings, strict=True)
        frames = [_frames(path, voice.speed) for path, voice in pairs]
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
    sentences: Sequence[str], voice_settings: Sequence[VoiceSettings], scratch: Path
) -> list[Path]:
    paths = [scratch / f"{i}.wav" for i in range(len(sentences))]
    for path, sentence, voice in zip(paths, sentences, voice_settings, strict=True):
        settings = ("--setf", f"duration_stretch={voice.stretch:.3f}")
        settings += ("--setf", f"f0_shift={voice.pitch:.3f}")
        settings += ("--setf", f"int_f0_target_mean={110 * voice.pitch:.1f}")
        _run("flite", "-voice", voice.voice, *settings, "-t", sentence, str(path))
    return paths


def _speak_espeak(
    sentences: Sequence[str], voice_settings: Sequence[VoiceSettings], scratch: Path
) -> list[Path]:
    paths = [scratch / f"{i}.wav" for i in range(len(sentences))]
    for path, sentence, voice in zip(paths, sentences, voice_settings, strict=True):
        words_per_minute = str(round(165 / voice.stretch))
        pitch = str(round(50 * voice.pitch))
        arguments = ("-v", voice.voice, "-s", words_per_minute, "-p", pitch)
        _run("espeak-ng", *arguments, "-w", str(path), sentence)
    return paths


def _speak_festival(
    sentences: Sequence[str], voice_settings: Sequence[VoiceSettings], scratch: Path
) -> list[Path]:
    paths = [scratch / f"{i}.wav" for i in range(len(sentences))]
    script = scratch / "speak.scm"
    with script.open("w") as lines:
        for path, sentence, voice in zip(paths, sentences, voice_settings, strict=True):
            lines.write(f"(voice_{voice.voice})\n")
            lines.write(f"(Parameter.set 'Duration_Stretch {voice.stretch:.3f})\n")
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
