"""Locust's side of the load: a user is a live speaker.

    locust -f loadtest/locustfile.py --host HOST:PORT                      with the web UI
    locust -f loadtest/locustfile.py --host HOST:PORT --headless -u 100 -r 100 -t 60s
    ... --processes 4                                                      on several cores
    ... --master / --worker --master-host HOST                             on several machines

Locust's charts show chunk latency, its table final latency and the generator's own lateness too; it
rounds them. What /live of the web UI draws comes from raw samples, and so does the verdict at the
end of a run. Exit code: 0 the count is carried, 1 it is not, 3 the generator was the limit.
`python -m loadtest capacity` drives the same users to find the largest count.
"""

from __future__ import annotations

import loadtest.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore

import logging
import math
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import earshot
import gevent
import locust.stats
from locust import User, constant, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.judge import judge, rule_for
from loadtest.live_page import LivePage
from loadtest.metrics import ServerUse
from loadtest.report_line import describe, exit_code, verdict_of
from loadtest.samples import Recent
from loadtest.speaker import Speaker
from loadtest.speech import RECORDINGS, TALK_S, Script, load_recordings, write_scripts
from loadtest.transcripts import Comparer, hear_quietly
from loadtest.wiring import Moderator, Station

WARM_UP_S = 3.0
_log = logging.getLogger(__name__)
_stations: dict[Environment, Station] = {}

locust.stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]


class LiveSpeaker(User):
    """Speaks whenever the moderator wants it to."""

    wait_time = constant(0)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._station = _stations[environment]
        self._speaker: Speaker | None = None

    @task
    def speak(self) -> None:
        """One stream."""
        if self._station.recorder.wait_for_turn() and self._speaker is not None:
            self._speaker.rest()
        try:
            if self._speaker is None:
                self._speaker = self._station.new_speaker(str(self.host))
            self._speaker.speak()
        except earshot.EarshotError as error:
            self._station.refused(error)
            gevent.sleep(1.0)


class Charts:
    """Feeds Locust's statistics; its charts are drawn from what is fired as a request: chunks."""

    def __init__(self, environment: Environment) -> None:
        self._request = environment.events.request
        self._stats: Any = environment.stats  # its hints ask for whole milliseconds

    def chunk(self, latency_ms: float, lateness_ms: float) -> None:
        """A chunk's text has come."""
        self._request.fire(
            request_type="stream",
            name="chunk latency",
            response_time=latency_ms,
            response_length=0,
            exception=None,
            context={},
        )
        if not math.isnan(lateness_ms):
            self._stats.get("lateness", "generator").log(max(0.0, lateness_ms), 0)

    def final(self, latency_ms: float) -> None:
        """A stream's last text has come."""
        self._stats.get("final latency", "stream").log(latency_ms, 0)

    def failure(self, error: Exception) -> None:
        """A stream has failed."""
        self._request.fire(
            request_type="stream",
            name="chunk latency",
            response_time=None,
            response_length=0,
            exception=error,
            context={},
        )


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--speech", default=str(RECORDINGS), help="Folder with recordings.")
    parser.add_argument("--model", help="Which recognizer, if the server has several.")
    parser.add_argument("--talk-s", type=float, default=TALK_S, help="Least length of a stream.")


@events.init.add_listener
def _set_up(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    scripts = write_scripts(load_recordings(Path(options.speech)), options.talk_s)
    if not isinstance(environment.runner, MasterRunner):
        charts = Charts(environment)
        _stations[environment] = Station(environment, scripts, charts, options.model)
    if not isinstance(environment.runner, WorkerRunner):
        chair = _Chair(environment, scripts)
        if environment.web_ui is not None:
            LivePage(environment.web_ui, chair.take_recent)


class _Chair:
    """Holds one level for as long as Locust's own controls say, and judges it."""

    def __init__(self, environment: Environment, scripts: Sequence[Script]) -> None:
        self._environment = environment
        self._scripts = scripts
        self._moderator = Moderator(environment)
        self._info: earshot.ServerInfo | None = None
        self._comparer: Comparer | None = None
        environment.events.test_start.add_listener(self._on_start)
        environment.events.spawning_complete.add_listener(self._on_all_there)
        environment.events.test_stopping.add_listener(self._on_stopping)

    def take_recent(self) -> Recent:
        """What has come in since the last call."""
        return self._moderator.gathering.take_recent()

    def _on_start(self, **_: Any) -> None:
        _log.info("hearing the speech once, quietly, to compare with")
        options = self._environment.parsed_options
        assert options is not None
        with earshot.connect(str(self._environment.host), model=options.model) as client:
            self._info = client.info
            quiet = hear_quietly(client, self._scripts, lambda done: None)
        self._comparer = Comparer(self._scripts, quiet, self._info.precision)
        self._moderator.speak(warm_up_s=0.0)  # for the charts; what counts begins afresh

    def _on_all_there(self, **_: Any) -> None:
        self._moderator.speak(WARM_UP_S)

    def _on_stopping(self, **_: Any) -> None:
        hold_s = self._moderator.hang_up()
        samples = self._moderator.gather()
        if self._info is None or self._comparer is None or not hold_s:
            _log.error("stopped before anything was measured")
            self._environment.process_exit_code = 2
            return
        runner = self._environment.runner
        level = judge(
            samples,
            runner.user_count if runner is not None else 0,
            rule_for(self._info.chunk_ms, hold_s),
            True,
            self._comparer.compare(samples.spoken),
            ServerUse(),
        )
        print(describe(level), flush=True)
        self._environment.process_exit_code = exit_code(verdict_of(level))
