"""What every route may ask: which model, how is the engine, may a request be accepted now."""

import contextlib
import enum
import time
from collections.abc import Iterator, Sequence

import msgspec

from wenxin_runtime.config import RuntimeConfig
from wenxin_runtime.errors import EngineDied, EngineUnavailable, ModelNotFound, RequestError
from wenxin_runtime.ipc import Loading, Submit
from wenxin_runtime.server.answers.cache import AnswerCache
from wenxin_runtime.server.answers.how import How
from wenxin_runtime.server.engine_client import EngineClient
from wenxin_runtime.server.exchange import Exchange
from wenxin_runtime.server.generation import Generation
from wenxin_runtime.server.served_model import ServedModel
from wenxin_runtime.server.statistics import Statistics
from wenxin_runtime.server.tracing import Tracing
from wenxin_runtime.telemetry import Metrics

# A load takes minutes, so a client that asks again every second would only add noise.
_RETRY_WHILE_LOADING_SECONDS = 10


class Stage(enum.Enum):
    """How far the process is on its way out."""

    SERVING = "serving"
    LEAVING = "leaving"
    """Not ready any more, but requests are still served: endpoints need a moment to catch up."""
    DRAINING = "draining"
    """New requests are refused; accepted ones are finished."""


class Load(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of /load. Sequences, except `slots` and `queue_size`, which are places; `kv_usage` is 0 to 1.

    `cache` says whether Redis answers ("ok") or is left alone ("down"), where there is an answer cache.
    """

    waiting: int
    running: int
    slots: int
    queue_size: int
    kv_usage: float
    draining: bool
    cache: str = ""


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of /health and /health/ready. `done` and `total` are bytes of weights."""

    status: str
    message: str = ""
    done: int = 0
    total: int = 0


class Service:
    """One server: its settings, its engine, its model once that is read, and the stage of its life."""

    def __init__(
        self, config: RuntimeConfig, metrics: Metrics, tracing: Tracing, answers: AnswerCache | None = None
    ) -> None:
        self.config = config
        self.answers = answers
        self.metrics = metrics
        self.tracing = tracing
        self.statistics = Statistics()
        self.engine = EngineClient(config, metrics)
        self.model: ServedModel | None = None
        self.stage = Stage.SERVING

    @property
    def why_not_ready(self) -> Health | None:
        """Say why requests should go elsewhere; None when they are welcome."""
        state = self.engine.state
        if isinstance(state, EngineDied):
            return Health("engine_died", str(state))
        if self.stage is not Stage.SERVING:
            return Health(self.stage.value, "the server is stopping")
        if isinstance(state, Loading):
            return Health("loading", "the engine is loading the weights", done=state.done, total=state.total)
        if self.model is None:
            return Health("loading", "the tokenizer is being read")
        return None

    @property
    def load(self) -> Load:
        """Count the places that are taken and those there are."""
        engine, config = self.engine, self.config
        return Load(
            waiting=engine.waiting,
            running=engine.running,
            slots=config.max_num_seqs,
            queue_size=config.queue_size,
            kv_usage=round(engine.kv_usage, 4),
            draining=self.stage is not Stage.SERVING,
            cache="" if self.answers is None else "ok" if self.answers.well else "down",
        )

    def accepting(self) -> ServedModel:
        """Return the model if a new request may come in now; called before any work is spent on one.

        Raises:
            Overloaded: there is no place left.
            EngineUnavailable: loading, stopping, or dead.
        """
        with self._counting_rejections():
            model = self._loaded()
            if self.answers is None:  # an answer that is there already needs no place
                self.engine.check_capacity()
            return model

    def admit(self, submits: Sequence[Submit]) -> Generation:
        """Accept a request, now that it is known how many sequences it has.

        Raises:
            InvalidRequest: more sequences than there will ever be places.
            Overloaded: there are not enough places left.
            EngineUnavailable: loading, stopping, or dead.
        """
        with self._counting_rejections():
            self._loaded()
            return self.engine.open(submits)

    def over(self, exchange: Exchange) -> None:
        """Take note of an exchange that has ended, by whatever protocol it came."""
        self.tracing.record(exchange)
        self.statistics.record(exchange)
        if exchange.cache == How.HIT:
            self.metrics.answers.hit(time.monotonic() - exchange.begun)

    def loaded(self) -> ServedModel:
        """Return the model, for what asks about it and generates nothing.

        Raises:
            EngineUnavailable: loading, stopping, or dead.
        """
        with self._counting_rejections():
            return self._loaded()

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus answer in tokens; 0 until the engine has said it."""
        return self.engine.max_model_len

    def check_model_name(self, name: str | None) -> str:
        """Return the name to answer with: the requested one, else the first served.

        Raises:
            ModelNotFound: no model of this name is served here.
        """
        names = self.model.names if self.model is not None else ()
        if name is None:
            return names[0]
        if name not in names:
            raise ModelNotFound(
                f"the model {name!r} does not exist here; served: {', '.join(names)}",
                param="model",
                code="model_not_found",
            )
        return name

    def _loaded(self) -> ServedModel:
        state = self.engine.state
        if isinstance(state, EngineDied):
            raise EngineUnavailable(f"the engine died: {state}", code="engine_died", retry_after=1)
        if self.stage is Stage.DRAINING:
            raise EngineUnavailable("the server is stopping, ask another replica", code="draining", retry_after=1)
        if isinstance(state, Loading) or self.model is None:
            raise EngineUnavailable(
                "the model is still loading", code="loading", retry_after=_RETRY_WHILE_LOADING_SECONDS
            )
        return self.model

    @contextlib.contextmanager
    def _counting_rejections(self) -> Iterator[None]:
        try:
            yield
        except RequestError as error:
            if error.status == 503:
                self.metrics.rejections.labels(error.code).inc()
            raise
