"""Transcribe several files at once, with one progress bar for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from .._aio import AsyncClient
from .._errors import EarshotError
from .._files import display_name, open_audio
from .._server_info import OfflineInfo, ServerInfo
from .._stream_options import NO_OPTIONS, StreamOptions
from .._transcript import Transcript


@dataclass(frozen=True)
class FileResult:
    """The result of one file: a transcript or an error."""

    path: Path
    transcript: Transcript | None
    error: EarshotError | None
    info: ServerInfo | OfflineInfo
    """The recognizer of the file."""
    seconds: float
    """Time from opening the file to the end of its text."""
    truncated: bool = False
    """True if the header of the file states more audio than it has."""


class Batch:
    """Transcribes files, `jobs` of them at a time."""

    def __init__(
        self,
        client: AsyncClient,
        jobs: int,
        console: Console,
        *,
        streaming: bool,
        options: StreamOptions,
    ) -> None:
        self._client = client
        self._streaming = streaming or options != NO_OPTIONS
        self._options = options
        self._info = client.served.for_files(self._streaming)
        self._free = asyncio.Semaphore(jobs)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            # Transcripts go to stdout, not to the console of the bars.
            redirect_stdout=False,
            disable=not console.is_terminal,
        )

    async def results(self, paths: Sequence[Path]) -> AsyncGenerator[FileResult, None]:
        """Yield one result per path, in their order, as soon as it is known."""
        tasks = [asyncio.ensure_future(self._transcribe(path)) for path in paths]
        try:
            for task in tasks:
                self._bars.start()
                result = await task
                # The bars would mix with what the caller prints.
                self._bars.stop()
                yield result
        finally:
            self._bars.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _transcribe(self, path: Path) -> FileResult:
        async with self._free:
            started_s = time.monotonic()
            transcript = error = None
            truncated = False
            bar = self._bars.add_task(display_name(path.name), total=None)

            def show(done_s: float) -> None:
                self._bars.update(bar, completed=done_s)

            try:
                with open_audio(path) as audio:
                    truncated = audio.truncated
                    self._bars.update(bar, total=audio.duration_s)
                    transcript = await self._client.transcribe(
                        audio,
                        streaming=self._streaming,
                        options=self._options,
                        on_progress=show,
                    )
            except EarshotError as caught:
                error = caught
            except Exception as caught:  # the other files go on, whatever it is
                error = EarshotError(f"{type(caught).__name__}: {caught}")
                error.__cause__ = caught
            self._bars.remove_task(bar)
            seconds = time.monotonic() - started_s
            return FileResult(path, transcript, error, self._info, seconds, truncated)
