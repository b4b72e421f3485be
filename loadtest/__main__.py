"""``python -m loadtest``: one command per file."""

from __future__ import annotations

import typer

from loadtest import agreement, baseline, offline, plan, report, table
from loadtest.capacity import capacity, hold
from loadtest.generator import generator
from loadtest.gpu_report import gpu_report
from loadtest.overhead import overhead
from loadtest.selftest import selftest

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How many live streams a server carries.",
)
app.command()(capacity)
app.command()(hold)
app.command()(generator)
app.command()(overhead)
app.command()(selftest)
app.command("offline")(offline.main)
app.command("report")(report.main)
app.command("table")(table.main)
app.command("plan")(plan.main)
app.command("baseline")(baseline.main)
app.command("agreement")(agreement.main)
app.command()(gpu_report)

if __name__ == "__main__":
    app()
