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
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from .._aio import AsyncClient
from .._errors import EarshotError, ServerBusy, ServerDraining
from .._files import open_audio
from .._server_info import OfflineInfo, ServerInfo
from .._stream_options import StreamOptions
from .._transcript import Transcript
from .inputs import Input, Recording

_BUSY_S = 60.0
"""Time for which a file waits for a server that accepts no new stream; live audio could not
wait."""
_RETRY_S = 1.0


@dataclass(frozen=True)
class FileResult:
    """The result of one file, or of one of its channels: a transcript or an error."""

    recording: Recording
    transcript: Transcript | None
    error: EarshotError | None
    info: ServerInfo | OfflineInfo
    """The recognizer of the file."""
    seconds: float
    """Time from opening the file to the end of its text."""


class Batch:
    """Transcribes up to `jobs` files at a time."""

    def __init__(
        self,
        client: AsyncClient,
        jobs: int,
        console: Console,
        given: Input,
        *,
        streaming: bool,
        options: StreamOptions,
    ) -> None:
        self._client = client
        self._given = given
        self._streaming = streaming or options.needs_stream
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
        """Yield the results of the paths in the given order, each as soon as it is known."""
        tasks = [asyncio.ensure_future(self._transcribe(path)) for path in paths]
        try:
            for task in tasks:
                self._bars.start()
                results = await task
                # The bars would mix with what the caller prints.
                self._bars.stop()
                for result in results:
                    yield result
        finally:
            self._bars.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _transcribe(self, path: Path) -> list[FileResult]:
        async with self._free:
            if not self._given.split:
                return [await self._result(Recording(path, self._given.channel))]
            try:
                with open_audio(path, self._given.form) as audio:
                    channels = audio.channels
            except EarshotError as error:
                return [FileResult(Recording(path), None, error, self._info, 0.0)]
            return [
                await self._result(Recording(path, channel)) for channel in range(1, channels + 1)
            ]

    async def _result(self, recording: Recording) -> FileResult:
        started_s = time.monotonic()
        transcript = error = None
        bar = self._bars.add_task(recording.label.rpartition("/")[2], total=None)
        try:
            transcript = await self._retry_while_busy(recording, bar)
        except EarshotError as caught:
            error = caught
        except Exception as caught:  # no error of one file may stop the others
            error = EarshotError(f"{type(caught).__name__}: {caught}")
            error.__cause__ = caught
        self._bars.remove_task(bar)
        seconds = time.monotonic() - started_s
        return FileResult(recording, transcript, error, self._info, seconds)

    async def _retry_while_busy(self, recording: Recording, bar: TaskID) -> Transcript:
        """Transcribe a file, and start again while the server has no slot for another stream."""
        deadline_s = time.monotonic() + _BUSY_S
        while True:
            try:
                return await self._transcribe_once(recording, bar)
            except ServerBusy as refusal:
                # A pipe cannot be read twice.
                once = isinstance(refusal, ServerDraining) or not recording.path.is_file()
                if once or time.monotonic() > deadline_s:
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _transcribe_once(self, recording: Recording, bar: TaskID) -> Transcript:
        def show(done_s: float) -> None:
            self._bars.update(bar, completed=done_s)

        with open_audio(recording.path, self._given.form) as audio:
            self._bars.update(bar, total=audio.duration_s)
            return await self._client.transcribe(
                audio,
                encoding=self._given.form and self._given.form.encoding,
                channel=recording.channel,
                streaming=self._streaming,
                options=self._options,
                on_progress=show,
            )
