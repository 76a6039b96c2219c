"""spec.answerCache: where answers to repeated prompts are kept, and which."""

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from wenxin_operator.api.fields import DurationUpTo, NodeLabels, Part, require, rule, rules
from wenxin_operator.api.pod import Toleration

_ONE_REDIS = "give exactly one of redis.managed and redis.urlSecretRef"
_ONLY_OWN = "redis.ports and redis.caSecretRef belong to redis.urlSecretRef: a managed Redis needs neither"
_MEMORY = r"^((6[4-9]|[7-9][0-9]|[1-9][0-9]{2,5})Mi|[1-9][0-9]{0,3}Gi)$"
_MEMORY_MESSAGE = "write a size such as 512Mi or 2Gi; it must be at least 64Mi"
_UNITS = {"Mi": 2**20, "Gi": 2**30}
_PORTS_MESSAGE = "name each port once"

MemorySize = Annotated[
    str,
    require(lambda value: re.fullmatch(_MEMORY, value) is not None, _MEMORY_MESSAGE),
    WithJsonSchema({"type": "string", "maxLength": 16, **rule(f"self.matches(r'{_MEMORY}')", _MEMORY_MESSAGE)}),
]


def memory_bytes(size: str) -> int:
    """A valid MemorySize in bytes."""
    return int(size[:-2]) * _UNITS[size[-2:]]


class SecretKey(Part):
    """One value of a Secret in the same namespace."""

    name: str = Field(min_length=1, max_length=253)
    """The Secret's name."""
    key: str = Field(default="url", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")
    """The value's."""


class AuthorityKey(Part):
    """A certificate in a Secret of the same namespace."""

    name: str = Field(min_length=1, max_length=253)
    """The Secret's name."""
    key: str = Field(default="ca.crt", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")
    """The value's."""


class ManagedRedis(Part):
    """A Redis that the operator runs for this deployment alone.

    It keeps nothing on disk: when its pod goes, answers are generated anew.
    """

    memory: MemorySize = "1Gi"
    """What its pod gets; three quarters of it are for answers, and those that are asked for least go first. An answer
    of 500 tokens takes some 3 KiB, with logprobs more."""
    node_selector: NodeLabels = Field(default={})
    """Only nodes with all these labels."""
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=32)
    """Taints that do not keep it off a node."""


_Ports = Annotated[
    tuple[Annotated[int, Field(ge=1, le=65535)], ...],
    Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
    require(lambda value: len(set(value)) == len(value), _PORTS_MESSAGE),
]


class Redis(Part):
    """Which Redis: one that the operator runs, or one of yours."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.managed) != has(self.urlSecretRef)", _ONE_REDIS),
            ("has(self.urlSecretRef) || (!has(self.ports) && !has(self.caSecretRef))", _ONLY_OWN),
        )
    )

    managed: ManagedRedis | None = None
    """The operator runs one, with a password of its own, that only this deployment's pods can reach."""
    url_secret_ref: SecretKey | None = None
    """Where the URL of yours stands: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS,
    redis+sentinel://HOST[:PORT],.../MASTER or redis+cluster://HOST[:PORT],...; see docs/answer-cache.md. Pods serve
    without it, and follow it when it comes or changes."""
    ca_secret_ref: AuthorityKey | None = None
    """Certificates, as PEM, of the authorities that vouch for it over TLS. Unset, those that every system trusts."""
    ports: _Ports | None = None
    """The ports in that URL, which the operator does not read, and those that Sentinels and nodes of a cluster name:
    the pods' NetworkPolicy is opened for them, to everywhere. Unset, 6379."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.managed is None) == (self.url_secret_ref is None):
            raise ValueError(_ONE_REDIS)
        if self.managed is not None and (self.ports is not None or self.ca_secret_ref is not None):
            raise ValueError(_ONLY_OWN)
        return self


class AnswerCache(Part):
    """Where answers to repeated prompts are kept, and which."""

    redis: Redis
    """One of yours is shared by all deployments that name it; those of the same weights share their answers."""
    ttl: Annotated[str, DurationUpTo("8760h", shortest="1s")] = "1h"
    """How long an answer is kept, give or take a tenth."""
    match: Literal["Any", "Deterministic"] = "Any"
    """Which answers are repeated: any, sampled ones too, or only those that are greedy or drawn with a seed of the
    request's own."""
