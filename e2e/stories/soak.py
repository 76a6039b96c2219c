"""Half an hour of mixed load in a few minutes, and what must hold at its end: nothing lost, nothing leaked, no growth.

The server's own counters are held against the account of the clients, who know what they sent.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from e2e.stories.crowd import Account, Crowd

_IDLE_SECONDS = 60.0
# What an allocator may keep beyond what it kept after the warm-up: a leak of a kilobyte per request is more.
_SLACK_BYTES = 20 * 2**20
_SLACK_SHARE = 0.05
_SLACK_FILES = 4
# One that is launched when the news comes, one under way, and what the news waits for a busy server.
_STEPS_TO_DROP = 4


@dataclass(frozen=True)
class Process:
    """Resident bytes and open files of one process."""

    resident: int
    files: int


Processes = Mapping[str, Process]


@dataclass(frozen=True)
class Soak:
    """What to soak, and how.

    Attributes:
        url: The server.
        model: The name to ask for.
        context: Its length in tokens.
        body_limit: The largest body it takes, in bytes.
        clients: How many work at a time.
        warm_up: Seconds of the same load before memory is first looked at.
        seconds: Seconds after that.
        processes: Looks at the server's processes, by name.
    """

    url: str
    model: str
    context: int
    body_limit: int
    clients: int
    warm_up: float
    seconds: float
    processes: Callable[[], Processes]


@dataclass(frozen=True)
class Report:
    """How it was. `counted` is by how much each sample of /metrics grew, by its name and the values of its labels."""

    account: Account
    counted: Mapping[str, float]
    load: Mapping[str, float]
    warm: Processes
    last: Processes
    warm_until: float

    def check(self) -> None:
        """Every check that holds anywhere.

        Raises:
            AssertionError: says what was lost, left or grew.
        """
        self.check_every_request_ended_once()
        self.check_nothing_was_computed_for_nobody()
        self.check_nothing_is_left()
        self.check_nothing_grew()

    def check_every_request_ended_once(self) -> None:
        """The server counts what the clients sent; of what they left it knows the ending, and no sequence has two."""
        account, counted = self.account, self.counted
        assert account.faults == [], account.faults[:10]
        responses = {
            int(name.removeprefix("wenxin_http_responses_total:")): count
            for name, count in counted.items()
            if name.startswith("wenxin_http_responses_total:")
        }
        assert sum(responses.values()) == account.sent
        for status in (404, 405, 413):
            assert responses[status] == account.answers[status]
        assert responses[500] == 0
        endings = {name: counted[f"wenxin_requests_total:{name}"] for name in ("stop", "length", "abort", "error")}
        assert endings["error"] == 0
        # A stop string in tokens that the engine had already ended is "stop" to the client and "length" to the counter.
        assert account.ended["length"] <= endings["length"]
        assert account.ended["stop"] + account.ended["length"] <= endings["stop"] + endings["length"]
        beyond = sum(endings.values()) - account.ended.total()
        assert 0 <= beyond <= account.abandoned
        assert endings["abort"] <= account.abandoned
        assert counted["wenxin_request_prompt_tokens_count:"] == sum(endings.values())

    def check_nothing_was_computed_for_nobody(self) -> None:
        """A sequence that the server ended, or whose client left, is dropped by the engine within a few steps."""
        computed = self.counted["wenxin_generation_tokens_total:"]
        wanted = self.counted["wenxin_request_generation_tokens_sum:"]
        most = _STEPS_TO_DROP * (self.account.abandoned + self.account.ended["stop"])
        assert 0 <= computed - wanted <= most, (
            f"{computed:.0f} tokens were generated, {wanted:.0f} of them for somebody"
        )

    def check_nothing_is_left(self) -> None:
        """An idle server holds no place and no block."""
        assert (self.load["running"], self.load["waiting"], self.load["kv_usage"]) == (0, 0, 0)

    def check_nothing_grew(self) -> None:
        """Memory and open files of every process are what they were when it was warm."""
        assert self.warm.keys() == self.last.keys()
        for name, warm in self.warm.items():
            last = self.last[name]
            slack = max(_SLACK_BYTES, _SLACK_SHARE * warm.resident)
            assert last.resident - warm.resident < slack, f"{name} grew from {warm.resident} to {last.resident} bytes"
            assert last.files - warm.files <= _SLACK_FILES, f"{name} has {last.files} files open, it had {warm.files}"

    def slowdown(self) -> float:
        """How many times longer a short request takes in the last quarter than in the first, by their medians."""
        durations = [seconds for when, seconds in self.account.seconds if when > self.warm_until]
        quarter = len(durations) // 4
        assert quarter >= 5, f"{len(durations)} short requests are too few"
        return statistics.median(durations[-quarter:]) / statistics.median(durations[:quarter])

    def summary(self) -> str:
        """What happened, in a few lines."""
        account = self.account
        memory = ", ".join(
            f"{name} {self.warm[name].resident >> 20} to {self.last[name].resident >> 20} MiB" for name in self.warm
        )
        preempted, cached = (
            self.counted[f"wenxin_{name}_total:"] for name in ("preemptions", "prefix_cache_hits_tokens")
        )
        return (
            f"{account.sent} requests, answers {dict(account.answers)}, {account.left_early} left early; "
            f"sequences {dict(account.ended)}, {account.abandoned} abandoned; "
            f"{preempted:.0f} preemptions, {cached:.0f} tokens cached; {memory}"
        )


async def run(soak: Soak, seed: int = 7) -> Report:
    """Warm up, look, go on, wait until nothing is under way, and look again."""
    crowd = Crowd(soak.model, context=soak.context, body_limit=soak.body_limit, seed=seed)
    async with _client(soak) as watching:
        before = await _metrics(watching)
        async with _client(soak) as client:
            await crowd.fill(await _most_cached_tokens(client, soak), client)
            await crowd.go_on_for(soak.warm_up, soak.clients, client)
        await _idle(watching, before, crowd.account)
        warm, warm_until = soak.processes(), time.monotonic()
        async with _client(soak) as client:  # a new one: connections that are kept open are files too
            await crowd.go_on_for(soak.seconds, soak.clients, client)
        load = await _idle(watching, before, crowd.account)
        after = await _metrics(watching)
        counted = {name: value - before.get(name, 0.0) for name, value in after.items()}
        return Report(crowd.account, counted, load, warm, soak.processes(), warm_until)


def _client(soak: Soak) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=4 * soak.clients)
    return httpx.AsyncClient(base_url=soak.url, timeout=120.0, trust_env=False, limits=limits)


async def _most_cached_tokens(client: httpx.AsyncClient, soak: Soak) -> int:
    """What a cache holds at most: all slots at full length, and as much again for prefixes."""
    slots: int = (await client.get("/load")).raise_for_status().json()["slots"]
    return 2 * slots * soak.context


async def _idle(client: httpx.AsyncClient, before: Mapping[str, float], account: Account) -> Mapping[str, float]:
    """Wait until every exchange is over and no sequence is open; a client that left may be noticed a moment later."""
    deadline = time.monotonic() + _IDLE_SECONDS
    while True:
        load: dict[str, float] = (await client.get("/load")).raise_for_status().json()
        counted = _responses(await _metrics(client)) - _responses(before)
        if counted >= account.sent and not any(load[name] for name in ("running", "waiting", "kv_usage")):
            return load
        assert time.monotonic() < deadline, f"not idle: {load}, {counted:.0f} of {account.sent} answers are counted"
        await asyncio.sleep(0.1)


def _responses(metrics: Mapping[str, float]) -> float:
    return sum(value for name, value in metrics.items() if name.startswith("wenxin_http_responses_total:"))


async def _metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """Every sample, by its name, a colon and the values of its labels."""
    text = (await client.get("/metrics")).raise_for_status().text
    return {
        f"{sample.name}:{','.join(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
