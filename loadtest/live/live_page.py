"""Serve the page /live in Locust's web UI: streams, chunk latency and generator lateness.

Locust's own charts show users and percentiles of response times; they have no line for lateness,
and their percentiles are rounded. Those of this page come from raw samples, second by second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from locust.web import WebUI

from loadtest.live.check import latency_of
from loadtest.live.samples import RecentSamples

KEPT_S = 600
_PAGE = """<!doctype html><meta charset="utf-8"><title>Earshot: live</title>
<style>body{font:14px sans-serif;margin:2em}canvas{width:100%;height:220px}
b{margin-right:1em}</style>
<h1>Live streams</h1><div id="charts"></div><script>
const CHARTS = [["streams", ["streams"]],
  ["chunk latency, ms", ["p50_ms", "p95_ms", "p99_ms"]],
  ["lateness of the load generator, ms (p99)", ["lateness_p99_ms"]]];
const COLOURS = ["#0099ff", "#ff9f00", "#d33"];
for (const [title] of CHARTS) document.getElementById("charts").insertAdjacentHTML(
  "beforeend", `<h3>${title}</h3><div></div><canvas width="1200" height="220"></canvas>`);
function draw(canvas, legend, names, seconds) {
  const context = canvas.getContext("2d");
  const most = Math.max(1, ...seconds.flatMap(second => names.map(name => second[name])));
  context.clearRect(0, 0, canvas.width, canvas.height);
  legend.innerHTML = names.map((name, line) => `<b style="color:${COLOURS[line]}">${name} ` +
    `${seconds.length ? seconds.at(-1)[name].toFixed(1) : ""}</b>`).join("") +
    `<small>0 to ${most.toFixed(0)}</small>`;
  names.forEach((name, line) => {
    context.strokeStyle = COLOURS[line];
    context.beginPath();
    seconds.forEach((second, at) => context.lineTo(at * canvas.width / Math.max(60, seconds.length),
      canvas.height * (1 - second[name] / most)));
    context.stroke();
  });
}
setInterval(async () => {
  const seconds = await (await fetch("live/data")).json();
  CHARTS.forEach(([, names], at) => draw(document.querySelectorAll("canvas")[at],
    document.querySelectorAll("#charts div")[at], names, seconds));
}, 1000);
</script>"""


class LivePage:
    """Keeps the figures of the last ten minutes, and serves them with the page."""

    def __init__(self, web_ui: WebUI, take_recent: Callable[[], RecentSamples]) -> None:
        self._take_recent = take_recent
        self._seconds: deque[dict[str, float]] = deque(maxlen=KEPT_S)
        app: Any = web_ui.app
        app.add_url_rule("/live", "live", lambda: _PAGE)
        app.add_url_rule("/live/data", "live_data", lambda: list(self._seconds))
        gevent.spawn(self._watch)

    def _watch(self) -> None:
        while True:
            gevent.sleep(1.0)
            recent = self._take_recent()
            latency, lateness = latency_of(recent.latency_ms), latency_of(recent.lateness_ms)
            self._seconds.append(
                {
                    "streams": recent.streams,
                    "p50_ms": latency.p50_ms,
                    "p95_ms": latency.p95_ms,
                    "p99_ms": latency.p99_ms,
                    "lateness_p99_ms": lateness.p99_ms,
                }
            )
