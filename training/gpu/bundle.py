"""Bundle everything that training on a GPU machine needs but the repository lacks, in pieces.

The pieces contain the recordings and sentences of `--speech` in their layout (of the test sets only
the manifests, which list speakers not to train on), the `hibari` voice as a package folder, and the
start checkpoint.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import soundfile

from training.corpora import SOUND_SUFFIXES, corpora, read_corpus
from training.features import SAMPLE_RATE_HZ, read_audio
from training.gpu.pieces import write_pieces

NAME = "training.tar.xz"
OPUS_COMPRESSION = 0.945
"""Compression on libsndfile's scale: 20 kbit/s."""
BRITISH = ("*_gb*", "__pycache__")


def write_bundle(
    speech: Path, start: Path, folder: Path, piece_mib: float, jobs: int
) -> list[Path]:
    """Write the pieces into `folder`; another call encodes only new files.

    Args:
        speech: Recordings, laid out as the README says.
        start: The checkpoint to start from.
        folder: Folder for the pieces.
        piece_mib: Largest size of a piece.
        jobs: Processes that encode.
    """
    copy = folder / "speech"
    with ProcessPoolExecutor(jobs) as workers:
        sources = list(_sounds(speech))
        targets = [copy / source.relative_to(speech) for source in sources]
        list(workers.map(encode_smaller, sources, targets, chunksize=20))
    for manifest in speech.glob("*/*/manifest.tsv"):
        target = copy / manifest.relative_to(speech)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(manifest, target)
    (copy / "train" / "text").mkdir(exist_ok=True)
    shutil.copy(speech / "train" / "text" / "sentences.txt", copy / "train" / "text")
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        shutil.copytree(copy, tree / "speech")
        _copy_hibari(tree / "site" / "hibari")
        shutil.copytree(start, tree / "start")
        return write_pieces(tree, folder, NAME, piece_mib, "-I", "xz -T0 -1")


def _sounds(speech: Path) -> Iterator[Path]:
    for corpus in corpora(speech):
        for recording in read_corpus(speech, corpus):
            yield recording.path
    for path in sorted((speech / "noise").iterdir()):
        if path.suffix in SOUND_SUFFIXES:
            yield path


def encode_smaller(source: Path, target: Path) -> None:
    """Write `source` as Opus at 16 kHz under its own name, or copy it if that is not larger.

    Readers detect the format of an audio file from its content, not from its name.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    try:
        samples = read_audio(source)
        soundfile.write(
            partial,
            samples,
            SAMPLE_RATE_HZ,
            format="OGG",
            subtype="OPUS",
            compression_level=OPUS_COMPRESSION,
        )
        intact = len(read_audio(partial)) == len(samples)
    except soundfile.LibsndfileError:
        intact = False
    if not intact or partial.stat().st_size >= source.stat().st_size:
        shutil.copy(source, partial)
    os.replace(partial, target)


def _copy_hibari(target: Path) -> None:
    """Copy the voice's package without the files for British speech."""
    found = importlib.util.find_spec("hibari")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("hibari-tts is not installed: pip install -e '.[training]'")
    source = Path(next(iter(found.submodule_search_locations)))
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*BRITISH))
