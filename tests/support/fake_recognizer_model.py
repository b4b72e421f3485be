"""The Python backend of the fake recognizer in fake_recognizer.py; runs inside Triton only."""

import json
import time
import zlib
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

MAX_TOKENS = 8


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])["parameters"]
        values = {name: value["string_value"] for name, value in config.items()}
        self.log, self.hold = Path(values["log"]), Path(values["hold"])
        self.slow_s = float(values["slow_s"])
        self.slow, self.fail, self.refuse = (
            np.float32(values[name]) for name in ("slow", "fail", "refuse")
        )
        self.chunks = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        audio = tensor(request, "AUDIO")
        length, start, end, stream = (
            int(tensor(request, name)[0]) for name in ("AUDIO_LENGTH", "START", "END", "CORRID")
        )
        index = 0 if start else self.chunks.get(stream, -1) + 1
        self.chunks[stream] = index
        if end:
            del self.chunks[stream]
        crc = zlib.crc32(audio.tobytes())
        chunk = {"id": stream, "start": start, "end": end, "length": length, "crc": crc}
        with self.log.open("a") as log:
            log.write(json.dumps(chunk) + "\n")
        if self.slow in audio:
            hold = self.held_since()
            while hold is not None and self.held_since() == hold:
                time.sleep(0.01)
            time.sleep(self.slow_s)
        if self.fail in audio:
            return failure("the fake recognizer was told to fail", pb.TritonError.INTERNAL)
        if self.refuse in audio:
            return failure("all slots are taken", pb.TritonError.UNAVAILABLE)
        return reply(index, length, crc)

    def held_since(self):
        """None if nobody holds slow chunks."""
        try:
            return self.hold.stat().st_mtime_ns
        except FileNotFoundError:
            return None


def reply(index, length, crc):
    """Two tokens that make one word, `<index>` and `:<length>:<crc>é`; none without audio."""
    pieces = [f"{' ' if index else ''}{index}", f":{length}:{crc:08x}é"] if length else []
    return pb.InferenceResponse(
        [
            pb.Tensor("TEXT", np.array([["".join(pieces)]], dtype=object)),
            padded("TOKENS", [10 + n for n in range(len(pieces))], np.int32),
            padded("TOKEN_FRAMES", [index] * len(pieces), np.int32),
            padded("TOKEN_LOGPROBS", [-0.5, -1.5][: len(pieces)], np.float32),
            padded("TOKEN_TEXT_LENGTHS", [len(piece) for piece in pieces], np.int32),
            pb.Tensor("TOKEN_COUNT", np.array([[len(pieces)]], dtype=np.int32)),
        ]
    )


def padded(name, values, dtype):
    row = np.full((1, MAX_TOKENS), -1, dtype=dtype)
    row[0, : len(values)] = values
    return pb.Tensor(name, row)


def tensor(request, name):
    return pb.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)


def failure(message, code):
    return pb.InferenceResponse(error=pb.TritonError(message, code))
