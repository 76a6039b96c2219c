"""`wenxin-operator check`: whether the copies behind a Service work. `helm test` runs it; it needs no rights.

A copy is ready once it has listed every kind that it serves, so a ready copy has proved that the definitions are
served and that its rights reach them; one that leads has written its Lease.
"""

import asyncio
import re
import socket
from dataclasses import dataclass
from typing import Final

import aiohttp

from wenxin_operator.errors import OperatorError

REQUEST_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.5
_LEADS = re.compile(r"^wenxin_operator_leader 1(\.0)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Found:
    """One copy. `problem` is empty when it is ready."""

    address: str
    problem: str
    leads: bool


async def check(host: str, port: int, *, patience: float) -> str:
    """Ask every copy until all are well, and tell what there is.

    Args:
        host: A name with one address for each copy, as a headless Service has.
        port: Their HTTP port.
        patience: Seconds until what is wrong then is an error.

    Raises:
        OperatorError: it says what is wrong.
    """
    deadline = asyncio.get_running_loop().time() + patience
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS)) as session:
        while True:
            found = [await _ask(session, address, port) for address in await _addresses(host, port)]
            wrong = problem(host, found)
            if not wrong:
                return "\n".join(f"{each.address} is ready{' and leads' if each.leads else ''}" for each in found)
            if asyncio.get_running_loop().time() > deadline:
                raise OperatorError(wrong)
            await asyncio.sleep(POLL_SECONDS)


def problem(host: str, found: list[Found]) -> str:
    """What is wrong with these copies; nothing when all is well."""
    if not found:
        return f"{host} has no address: no copy of the operator is ready; see its pods and their logs"
    if unready := [f"{each.address}: {each.problem}" for each in found if each.problem]:
        return "; ".join(unready)
    leaders = sum(each.leads for each in found)
    return "" if leaders == 1 else f"{leaders} of {len(found)} copies hold the Lease; it should be one"


async def _addresses(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return sorted({str(address[0]) for *_, address in found})


async def _ask(session: aiohttp.ClientSession, address: str, port: int) -> Found:
    base = f"http://{f'[{address}]' if ':' in address else address}:{port}"
    try:
        async with session.get(f"{base}/readyz") as answer:
            said = "" if answer.status == 200 else (await answer.text()).strip() or f"status {answer.status}"
        async with session.get(f"{base}/metrics") as answer:
            return Found(address, said, bool(_LEADS.search(await answer.text())))
    except (aiohttp.ClientError, TimeoutError) as error:
        return Found(address, str(error) or "no answer", leads=False)
