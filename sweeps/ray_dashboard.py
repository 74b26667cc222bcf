"""Ray's own dashboard, where a driver starts its Ray: off unless asked for, since it takes a second and some 200 MB.

It holds what the command line has asked for, as every command that starts a driver takes the option.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console

HOST = "127.0.0.1"
_wanted = False


def want(wanted: bool) -> bool:
    """Ask for it, or not: the callback of the option."""
    global _wanted
    _wanted = wanted
    return wanted


def options() -> dict[str, Any]:
    """What `ray.init` is given. Without a port Ray takes 8265, or the next one that is free."""
    return {"include_dashboard": True, "dashboard_host": HOST} if _wanted else {"include_dashboard": False}


def tell(console: Console) -> None:
    """Say where the dashboard of the Ray that runs is, if it was asked for."""
    if not _wanted:
        return
    from ray._private.worker import get_dashboard_url  # what `ray.init` returns knows it too, but only to whoever called it

    url = get_dashboard_url()
    where = f"http://{url}" if url else "there is none: the Ray that this sweep has joined was started without one"
    console.print(f"Ray's dashboard: {where}", soft_wrap=True)
