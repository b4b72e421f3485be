"""Define the locustfile of the load test, in which a Locust user is a live stream.

    locust -f loadtest/locustfile.py --host HOST:PORT                      with the web UI
    locust -f loadtest/locustfile.py --host HOST:PORT --headless -u 100 -r 100 -t 60s
    ... --processes 4                                                      on several cores
    ... --master / --worker --master-host HOST                             on several machines

Locust's charts show the chunk latency, its table the final latency and the generator's own lateness
too; Locust rounds them. The page /live of the web UI draws raw samples, and the verdict at the end
of a run is computed from them. Exit code: 0 the streams are sustained, 1 they are not, 3 the load
generator was the limit. `python -m loadtest capacity` drives the same users to find the largest
sustained number of streams.
"""

from __future__ import annotations

import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import earshot
import locust.stats
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.audio.recordings import load_clips
from loadtest.audio.scripts import write_scripts
from loadtest.live.live_page import LivePage
from loadtest.live.messages import Worker
from loadtest.live.users import LevelController, LiveUser, LocustCharts
from loadtest.options import MIN_STREAM_S, RECORDINGS, LoadOptions

__all__ = ["LiveUser"]

locust.stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--speech", default=str(RECORDINGS), help="Folder with the recordings.")
    parser.add_argument("--model", help="Recognizer to use if the server has several.")
    parser.add_argument("--talk-s", type=float, default=MIN_STREAM_S, help="Least stream length.")


def _prepare(controller: LevelController) -> None:
    try:
        controller.prepare()
    except (earshot.EarshotError, ValueError) as error:
        sys.exit(f"error: {error}")


@events.init.add_listener
def _set_up(environment: Environment, **_: Any) -> None:
    parsed = environment.parsed_options
    assert parsed is not None
    options = LoadOptions(
        speech=Path(parsed.speech), model=parsed.model, min_stream_s=parsed.talk_s
    )
    scripts = write_scripts(load_clips(options.speech), options.min_stream_s)
    if not isinstance(environment.runner, MasterRunner):
        charts = LocustCharts(environment)
        LiveUser.workers[environment] = Worker(environment, scripts, charts.show, options.model)
    if not isinstance(environment.runner, WorkerRunner):
        controller = LevelController(environment, options, scripts)
        if parsed.headless or parsed.autostart:
            _prepare(controller)  # before the run time, which begins with the spawning
        if environment.web_ui is not None:
            LivePage(environment.web_ui, controller.take_recent)
