"""The plugin as its user calls it, in a thread: it starts a loop of its own."""

import asyncio
from pathlib import Path

from wenxin_operator.cli.__main__ import main


async def run(*arguments: str, kubeconfig: Path | None = None) -> int:
    place = ("--kubeconfig", str(kubeconfig)) if kubeconfig else ()
    return await asyncio.to_thread(main, (*arguments, *place), {"HOME": "/nowhere"})
