"""Groups of processes that run one function, each as its rank."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from wenxin_runtime.parallel.ranks import Group

# Children of a process that has loaded torch and started no thread: each is there in milliseconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.distributed", __name__])
SECONDS = 60


def run(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `work(group, *arguments)` on every rank of a gloo group; give what they returned, None for one that died."""
    ends = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    store = str(folder / f"{work.__name__}-{size}")
    processes = [
        CONTEXT.Process(target=_rank, args=(rank, size, store, ends[rank][1], work, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for _, sending in ends:
        sending.close()
    try:
        return [_result(receiving) for receiving, _ in ends]
    finally:
        for process in processes:
            process.join(SECONDS)
            process.kill()
            process.join()


def _result(receiving: Connection) -> Any:
    assert receiving.poll(SECONDS), "a rank does not answer"
    try:
        return receiving.recv()
    except EOFError:
        return None


def _rank(
    rank: int, size: int, store: str, sending: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    sending.send(work(Group(dist.group.WORLD, torch.device("cpu")), *arguments))
    dist.destroy_process_group()
