"""``python -m loadtest``: one command per file."""

from __future__ import annotations

import typer

from loadtest import agreement, baseline, plan, report, table
from loadtest.capacity import capacity, hold
from loadtest.gpu_report import gpu_report

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How many live streams a server carries.",
)
app.command()(capacity)
app.command()(hold)
app.command("report")(report.main)
app.command("table")(table.main)
app.command("plan")(plan.main)
app.command("baseline")(baseline.main)
app.command("agreement")(agreement.main)
app.command()(gpu_report)

if __name__ == "__main__":
    app()
