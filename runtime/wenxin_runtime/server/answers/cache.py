"""Hit, share, or generate and keep: how a request gets its answer where there is a cache."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.ipc import FinishReason, Submit
from wenxin_runtime.server.answers import entry
from wenxin_runtime.server.answers.entry import Kept
from wenxin_runtime.server.answers.flight import Flight
from wenxin_runtime.server.answers.how import How
from wenxin_runtime.server.answers.key import is_deterministic, key_of, space_of
from wenxin_runtime.server.generation import Generation
from wenxin_runtime.server.openai.plan import Plan
from wenxin_runtime.telemetry import AnswerMetrics

Admit = Callable[[Sequence[Submit]], Generation]


class Store(Protocol):
    """Where entries are kept."""

    @property
    def well(self) -> bool:
        """Whether it is asked: what is not well is left alone."""

    async def connect(self, space: bytes) -> None:
        """Connect before anybody waits for it; from now on keys are of this space."""

    async def get(self, key: bytes) -> bytes | None:
        """Find an entry."""

    def put(self, key: bytes, raw: bytes) -> None:
        """Keep an entry."""

    def drop(self, key: bytes) -> None:
        """Forget an entry that cannot be read."""

    async def close(self) -> None:
        """Finish what is being written."""


class Opened(NamedTuple):
    """A request's generation, and where it comes from."""

    generation: Generation
    how: How


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request's headers say of the cache.

    Attributes:
        tenant: A hash of the client's API key; who has another key shares no answer. Empty without a key.
        lookup: Whether an answer that is there already will do.
        keep: Whether the answer may be kept.
    """

    tenant: str = ""
    lookup: bool = True
    keep: bool = True

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Wish":
        """Read it off the headers, whose names are in lower case."""
        directives = {word.strip().lower() for word in headers.get("cache-control", "").split(",")}
        given = headers.get("authorization", "")
        return cls(
            tenant=hashlib.sha256(given.encode()).hexdigest() if given else "",
            lookup=not directives & {"no-cache", "no-store"},
            keep="no-store" not in directives,
        )


class AnswerCache:
    """The answers of one server.

    Attributes:
        identity: The model and how it computes; while it is None nothing is cached.
        space: What the model's keys begin with in the store, whoever serves it; empty while there is no identity.
    """

    def __init__(self, store: Store, *, only_deterministic: bool, most_bytes: int, metrics: AnswerMetrics) -> None:
        """Keep answers in `store`.

        Args:
            store: Shared with other servers.
            only_deterministic: Whether answers that are drawn without a seed are never repeated.
            most_bytes: Larger answers are not kept.
            metrics: Told of each request.
        """
        self.identity: str | None = None
        self.space = ""
        self._store = store
        self._only_deterministic = only_deterministic
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._flights: dict[bytes, Flight] = {}

    async def open(self, plan: Plan, wish: Wish, admit: Admit) -> Opened:
        """Find an answer, or begin to generate one.

        Raises:
            RequestError: `admit` refuses it.
        """
        opened = await self._open(plan, wish, admit)
        self._metrics.count(opened.how)
        return opened

    async def begin(self, identity: str) -> None:
        """Cache from now on; `identity` is of the model, and of how it computes."""
        self.space = space_of(identity)
        await self._store.connect(self.space.encode())
        self.identity = identity
        self._metrics.begin(self.space)

    @property
    def well(self) -> bool:
        """Whether answers are looked up and kept now."""
        return self.identity is not None and self._store.well

    async def close(self) -> None:
        """Finish what is being written."""
        await self._store.close()

    async def _open(self, plan: Plan, wish: Wish, admit: Admit) -> Opened:
        drawn_anew = self._only_deterministic and not is_deterministic(plan)
        if self.identity is None or drawn_anew or not wish.keep:
            return Opened(admit(plan.submits()), How.BYPASS)
        key = key_of(plan, self.identity, wish.tenant)
        if not wish.lookup:
            return Opened(self._fly(key, plan, admit, found_by_others=False), How.BYPASS)
        # Looked for again after Redis was asked: an equal request may have begun meanwhile.
        if shared := self._shared(key, plan):
            return shared
        kept = await self._kept(key, plan)
        if kept is not None:
            return Opened(_replayed(plan, kept), How.HIT)
        return self._shared(key, plan) or Opened(self._fly(key, plan, admit), How.MISS)

    def _shared(self, key: bytes, plan: Plan) -> Opened | None:
        flight = self._flights.get(key)
        return Opened(flight.join(plan.sequence_ids), How.SHARED) if flight else None

    async def _kept(self, key: bytes, plan: Plan) -> tuple[Kept, ...] | None:
        raw = await self._store.get(key)
        if raw is None:
            return None
        kept = entry.unpack(key, raw, len(plan.prompts) * plan.candidates)
        if kept is None:
            self._store.drop(key)
        return kept

    def _fly(self, key: bytes, plan: Plan, admit: Admit, *, found_by_others: bool = True) -> Generation:
        def landed(flight: Flight) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        def whole(kept: tuple[Kept, ...]) -> None:
            raw = entry.pack(key, kept)
            if len(raw) <= self._most_bytes:
                self._store.put(key, raw)

        generation = admit(plan.submits())
        flight = Flight(generation, landed, whole)
        if found_by_others:
            self._flights[key] = flight
        return flight.join(generation.request_ids)


class _Nobody:
    """The owner of a generation that is over before it begins."""

    def end(self, request_id: str, reason: FinishReason) -> None:
        """See `generation.Owner.end`."""

    def abort(self, request_ids: Sequence[str]) -> None:
        """See `generation.Owner.abort`."""


_NOBODY = _Nobody()


def _replayed(plan: Plan, kept: Sequence[Kept]) -> Generation:
    request_ids = plan.sequence_ids
    generation = Generation(_NOBODY, request_ids, ())
    for number, sequence in enumerate(kept):
        generation.put(number, sequence.delta(request_ids[number]))
    generation.whole = True
    return generation


def redis_flags(url: str | None, url_file: str | None, ca_file: str | None) -> tuple[str, str, str]:
    """Where Redis is as the flags say it, or else the variables of the same names; what neither says is empty."""
    given = {"WENXIN_REDIS_URL": url, "WENXIN_REDIS_URL_FILE": url_file, "WENXIN_REDIS_CA_FILE": ca_file}
    found, file, authorities = (flag or os.environ.get(name, "") for name, flag in given.items())
    return found, file, authorities


def cache_of(config: RuntimeConfig, metrics: AnswerMetrics) -> AnswerCache | None:
    """Make the cache that the flags and the environment ask for, if they do.

    Raises:
        ConfigError: the URL is none.
    """
    url, url_file, ca_file = redis_flags(config.redis_url, config.redis_url_file, config.redis_ca_file)
    if not url and not url_file:
        return None
    from wenxin_runtime.server.answers.address import Address  # noqa: PLC0415 - a server without a cache needs no redis
    from wenxin_runtime.server.answers.store import RedisStore  # noqa: PLC0415 - same

    return AnswerCache(
        RedisStore(Address(url, url_file, ca_file), config.cache_ttl, metrics),
        only_deterministic=config.cache_match == "deterministic",
        most_bytes=config.cache_max_entry_bytes,
        metrics=metrics,
    )
