"""`python -m loadtest`: the commands of the load test."""

from __future__ import annotations

import typer

from loadtest.adapters.commands import adapters
from loadtest.capacity.commands import capacity, hold
from loadtest.compare import (
    agreement,
    baseline,
    client_cost,
    files,
    heads,
    hop,
    offline,
    overhead,
    plot,
    traces,
)
from loadtest.endpointing.commands import endpointing
from loadtest.faults.commands import faults
from loadtest.gpu.commands import gpu_bundle, gpu_page, gpu_plot, gpu_report, gpu_tokens
from loadtest.overload.commands import overload
from loadtest.plan.commands import plan
from loadtest.plan.fit import fit
from loadtest.report import page, table
from loadtest.resuming.commands import resuming
from loadtest.selftest import checks, generator
from loadtest.soak.commands import soak

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure how many live streams a server sustains, and compare with other tools.",
)
app.command()(capacity)
app.command()(hold)
app.command()(soak)
app.command()(overload)
app.command()(faults)
app.command()(resuming)
app.command()(adapters)
app.command("generator")(generator.generator)
app.command("client")(client_cost.client)
app.command("overhead")(overhead.overhead)
app.command("selftest")(checks.selftest)
app.command("offline")(offline.main)
app.command()(files.files)
app.command("report")(page.main)
app.command("table")(table.main)
app.command()(plan)
app.command()(fit)
app.command("baseline")(baseline.main)
app.command("baseline-plot")(plot.main)
app.command("agreement")(agreement.main)
app.command()(endpointing)
app.command()(heads.heads)
app.command()(traces.traces)
app.command()(hop.hop)
app.command()(gpu_bundle)
app.command()(gpu_report)
app.command()(gpu_plot)
app.command()(gpu_page)
app.command()(gpu_tokens)
