"""Draw the voice settings of a sentence, so that few voices become many speakers.

Playing a voice faster or slower moves its formants, as a shorter or longer vocal tract would. If
the pitch of an engine can be set, it is drawn to match: long vocal tracts have low voices.
"""

import random
from dataclasses import dataclass

FLITE_VOICES = ("slt", "rms", "awb", "kal16")
FESTIVAL_VOICES = ("cmu_us_slt_arctic_hts", "ked_diphone", "kal_diphone")
ESPEAK_ACCENTS = ("en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")
ESPEAK_VARIANTS = (
    *(f"m{i}" for i in range(1, 9)),
    *(f"f{i}" for i in range(1, 6)),
    *("klatt", "klatt2", "klatt4", "Andy", "Annie", "Alicia", "edward", "Gene", "linda", "Lee"),
    *("max", "Michael", "Mike", "paul", "rob", "steph", "travis", "victor", "zac"),
)


@dataclass(frozen=True)
class VoiceSettings:
    """Voice of one sentence, lengthened by `stretch`, with f0 times `pitch`, played at `speed`."""

    voice: str
    stretch: float
    pitch: float
    speed: float


def draw_voice_settings(engine: str, rng: random.Random) -> VoiceSettings:
    """Draw settings that the engine supports."""
    if engine == "hibari":
        return _draw_speaker(rng)
    voices = {"flite": FLITE_VOICES, "festival": FESTIVAL_VOICES, "joe": ("joe",)}
    if engine == "espeak":
        voice = f"{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(ESPEAK_VARIANTS)}"
    else:
        voice = rng.choice(voices[engine])
    speed = rng.uniform(0.87, 1.18)
    return VoiceSettings(voice, rng.uniform(0.78, 1.1) * speed, rng.uniform(0.8, 1.25), speed)


def _draw_speaker(rng: random.Random) -> VoiceSettings:
    """Draw a speaker, from bass to child, for an engine with a woman's voice (f0 about 200 Hz)."""
    speed = rng.uniform(0.82, 1.17)
    final_pitch = 0.55 + 2.0 * (speed - 0.82) + rng.uniform(-0.1, 0.15)
    return VoiceSettings("heart", rng.uniform(0.75, 1.1) * speed, final_pitch / speed, speed)
