"""Write a page of one GPU's results: streams held, their cost, the limit, and the plot.

It is written where matplotlib is installed, from documents of the GPU machine, which lacks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from loadtest.gpu.plot import PUBLISHED, held_streams, levels_svg, title_of
from loadtest.gpu.summary import limit_in
from loadtest.report.templates import load_template
from loadtest.result.document import CapacityResult, Level
from loadtest.result.files import write_whole


@dataclass(frozen=True)
class HeldRow:
    """One result as a row of the page."""

    name: str
    chunk_ms: int
    held: Level | None
    """The final hold that passed, if one did."""
    published: int | None
    cost: float | None
    """Cost of one stream for an hour, with no headroom."""
    limit: str
    """The resource of which the largest share was used."""
    limit_seen: str
    """The limit stated in the result itself."""


def write_page(paths: Sequence[Path], price_per_hour: float, instances: int, output: Path) -> None:
    """Write the page of the results at `paths`.

    Args:
        paths: Documents of one GPU.
        price_per_hour: Price of the GPU with its host.
        instances: Recognizer processes of the server.
        output: File to write.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: A file is not such a document, or the results are of different GPUs.
    """
    results = [CapacityResult.from_json(path) for path in paths]
    gpus = {result.conditions.gpu_model for result in results}
    if len(gpus) > 1:
        raise ValueError(f"expected results of one GPU, got {', '.join(map(str, gpus))}")
    rows = [
        held_row(path.stem, result, price_per_hour, instances)
        for path, result in zip(paths, results, strict=True)
    ]
    page = load_template(Path(__file__).with_name("page.html.j2")).render(
        title=title_of(results[0]),
        plot=Markup(levels_svg(results)),
        rows=sorted(rows, key=lambda row: (row.chunk_ms, row.name)),
        price_per_hour=price_per_hour,
    )
    write_whole(output, page)


def held_row(name: str, result: CapacityResult, price_per_hour: float, instances: int) -> HeldRow:
    """Return the row of a result."""
    chunk_ms = result.conditions.chunk_ms
    held = held_streams([result]).get(chunk_ms)
    return HeldRow(
        name=name,
        chunk_ms=chunk_ms,
        held=held,
        published=PUBLISHED.get(chunk_ms),
        cost=held and price_per_hour / held.streams,
        limit=limit_in(result, instances),
        limit_seen=result.limit,
    )
