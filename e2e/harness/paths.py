"""Where the harness keeps things: nothing that it builds or runs lies inside the clone."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """What is slow to make and keyed by content: tools, image layers, containerd's stores.

    `$WENXIN_CACHE`, else `$XDG_CACHE_HOME/wenxin-operator`, else `~/.cache/wenxin-operator`.
    """
    if chosen := os.environ.get("WENXIN_CACHE"):
        return Path(chosen).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "wenxin-operator"


def state(cluster: str) -> Path:
    """What belongs to one running cluster and is gone after `down`. Short: it holds Unix sockets (107 bytes)."""
    return Path(os.environ.get("WENXIN_STATE", "/var/lib/wenxin-e2e")) / cluster
