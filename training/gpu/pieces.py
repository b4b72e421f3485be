"""Split archives into numbered pieces, for transfers with a size limit."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

SUMS = "SHA256SUMS"


def write_pieces(tree: Path, folder: Path, name: str, piece_mib: float, *tar: str) -> list[Path]:
    """Pack a folder as `folder/name.NN` with a list of checksums, replacing earlier pieces.

    Args:
        tree: Folder to pack.
        folder: Folder for the pieces.
        name: Name of the archive, without the number.
        piece_mib: Largest size of a piece.
        *tar: Further options of tar, for instance a compressor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name}.partial"
    subprocess.run(["tar", "-C", tree, *tar, "-c", "-f", archive, "."], check=True)
    for old in folder.glob(f"{name}.[0-9][0-9]"):
        old.unlink()
    pieces: list[Path] = []
    for number, content in enumerate(_parts(archive, round(piece_mib * 2**20))):
        partial = folder / "piece.partial"
        partial.write_bytes(content)
        pieces.append(folder / f"{name}.{number:02}")
        os.replace(partial, pieces[-1])
    archive.unlink()
    lines = "".join(f"{_sha256(piece)}  {piece.name}\n" for piece in pieces)
    (folder / SUMS).write_text(lines)
    return pieces


def unpack_pieces(folder: Path, name: str, target: Path, *tar: str) -> None:
    """Check the pieces of `name` against their checksums and unpack them.

    Raises:
        ValueError: A piece is missing or damaged.
    """
    joined = target / f"{name}.joined"
    target.mkdir(parents=True, exist_ok=True)
    with joined.open("wb") as archive:
        for line in (folder / SUMS).read_text().splitlines():
            expected, piece = line.split()
            path = folder / piece
            if not path.exists() or _sha256(path) != expected:
                raise ValueError(f"{path} is missing or damaged: carry it again")
            archive.write(path.read_bytes())
    subprocess.run(["tar", "-C", target, *tar, "-x", "-f", joined], check=True)
    joined.unlink()


def _parts(archive: Path, size: int) -> Iterator[bytes]:
    with archive.open("rb") as file:
        while part := file.read(size):
            yield part


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
