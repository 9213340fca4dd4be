"""`medsd dashboard`."""

from __future__ import annotations

from typing import Annotated

import typer

from medsd_ray.cli.options import port_option
from medsd_ray.console import stage


def dashboard(
    root: Annotated[str, typer.Argument(help="Folder or s3:// address below which studies and runs are")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but localhost needs a token")
    ] = "127.0.0.1",
    port: Annotated[int, port_option("0: any that is free")] = 8650,
) -> None:
    """Show studies and runs, live, on a page that changes nothing.

    The token of a host that others reach is printed, or taken from MEDSD_DASHBOARD_TOKEN.

    Example: medsd dashboard studies/
    """
    stage(f"opening {root}")
    from medsd_ray.dashboard.app import dashboard as run

    run(root, host, port)
