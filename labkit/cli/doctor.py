"""``labkit doctor``: what this machine has for labkit."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check this machine: what is installed, what is missing and how to install it."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from labkit.doctor import check_environment

    checks = check_environment()
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for check in checks:
        mark = "[green]✓[/]" if check.present else "[yellow]–[/]"
        text = escape(check.found)
        if not check.present:
            text += f"\n[dim]for:[/] {escape(check.purpose)}\n[dim]get:[/] {escape(check.fix)}"
        table.add_row(mark, check.name, text)
    Console().print(table)
