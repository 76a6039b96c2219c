"""The operator's settings: one frozen model, read once from WENXIN_OPERATOR_* variables.

Field `resync_interval` is variable `WENXIN_OPERATOR_RESYNC_INTERVAL`. The chart sets the same variables from its
values; a test holds both to the same names and defaults.
"""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wenxin_operator.api.fields import seconds
from wenxin_operator.errors import ConfigurationError

PREFIX = "WENXIN_OPERATOR_"
IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

# A Service named wenxin-operator or wenxin-operator-metrics puts these into every pod of its namespace.
_SERVICE_LINKS = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT)|PORT)(_\w+)?")


def _seconds(given: str | float) -> float:
    """A variable is Go-style text; code gives seconds."""
    return seconds(given) if isinstance(given, str) else float(given)


def _split(text: Any) -> Any:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


def _own_namespace() -> str:
    return IN_CLUSTER_NAMESPACE.read_text().strip() if IN_CLUSTER_NAMESPACE.exists() else "wenxin-system"


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Settings(BaseModel):
    """How this copy of the operator runs. Durations are seconds here, Go-style (`2m`) in variables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime_image: str = Field(
        "localhost/wenxin/runtime:dev", min_length=1, description="Image of model pods that name none."
    )
    redis_image: str = Field("redis:8-alpine", min_length=1, description="Image of managed Redis (spec.answerCache).")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="Pull policy of model pods and inspect Jobs."
    )
    image_pull_secrets: Names = Field(
        (), description="Secrets with registry credentials for the pods above, separated by commas; in each namespace."
    )
    watch_namespaces: Names = Field(
        (), description="Namespaces to serve, separated by commas; empty is the whole cluster."
    )
    workers: int = Field(4, ge=1, le=64, description="Resources that are reconciled at the same time.")
    resync_interval: Duration = Field(
        120.0, description="Every kind is listed anew, and every resource looked at, this often."
    )
    watch_age: Duration = Field(600.0, description="Liveness fails when no full list has succeeded for this long.")
    watch_silence: Duration = Field(
        70.0,
        description="A watch that tells nothing for this long, not even the bookmark of each minute, is begun anew.",
    )
    request_timeout: Duration = Field(30.0, description="Longest single request to the API server.")
    backoff_initial: Duration = Field(
        0.5, description="Wait before the first retry of a failed pass; doubles each time."
    )
    backoff_max: Duration = Field(120.0, description="Longest wait between two retries.")
    lease_name: str = Field("wenxin-operator", min_length=1, description="Lease that lets one copy work at a time.")
    lease_namespace: str = Field(
        default_factory=_own_namespace, min_length=1, description="Namespace of the lease; the pod's own by default."
    )
    lease_duration: Duration = Field(15.0, description="Others take over when a lease was not renewed for this long.")
    lease_renew_deadline: Duration = Field(
        10.0, description="The holder gives up, and exits, after failing to renew for this long."
    )
    lease_retry_period: Duration = Field(2.0, description="Wait between two attempts to take or renew the lease.")
    identity: str = Field(
        default_factory=socket.gethostname, min_length=1, description="Name of this copy in the lease and in events."
    )
    shutdown_timeout: Duration = Field(20.0, description="How long passes under way may take to finish after SIGTERM.")
    http_host: str = Field("0.0.0.0", description="Address of the probes and metrics.")
    http_port: int = Field(
        8080, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0 takes a free one."
    )
    metrics_provider: Literal["embedded", "prometheus-adapter", "keda", "none"] = Field(
        "embedded", description="Who serves autoscalers how busy the pods are; see docs/autoscaling.md."
    )
    metrics_interval: Duration = Field(
        10.0, description="How often pods that an autoscaler scales are asked how busy they are (provider embedded)."
    )
    metrics_https_port: int = Field(
        8443, ge=0, le=65535, description="Port of custom.metrics.k8s.io (provider embedded); 0 takes a free one."
    )
    prometheus_address: str = Field(
        "", max_length=512, description="URL of Prometheus, such as http://prometheus.monitoring.svc:9090, for keda."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    log_format: Literal["json", "text"] = Field("json", description="One JSON object per line, or lines for people.")
    kubeconfig: Path | None = Field(
        None, description="Kubeconfig to use; else $KUBECONFIG, the pod's service account, ~/.kube/config."
    )

    @model_validator(mode="after")
    def _lease_timings_leave_room(self) -> Self:
        """A holder must notice that it lost the lease before another may take it."""
        if not self.lease_duration > self.lease_renew_deadline > self.lease_retry_period:
            raise ValueError("lease_duration must exceed lease_renew_deadline, and that lease_retry_period")
        if self.watch_age < 2 * self.resync_interval:
            raise ValueError(
                "watch_age must be at least twice resync_interval, else one slow list restarts the operator"
            )
        return self

    @model_validator(mode="after")
    def _keda_knows_prometheus(self) -> Self:
        if self.metrics_provider == "keda" and not self.prometheus_address:
            raise ValueError("metrics_provider keda needs prometheus_address: KEDA asks Prometheus for the metrics")
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read WENXIN_OPERATOR_* variables; an empty one counts as unset.

        Raises:
            ConfigurationError: a value is wrong, or a variable of ours is unknown (a typing error, most likely).
        """
        given = {n.removeprefix(PREFIX).lower(): value for n, value in environment.items() if n.startswith(PREFIX)}
        unknown = sorted(n for n in given.keys() - cls.model_fields if not _SERVICE_LINKS.fullmatch(n.upper()))
        if unknown:
            raise ConfigurationError(
                f"unknown variable {variable(unknown[0])}: `wenxin-operator --help` lists them all"
            )
        try:
            return cls.model_validate({name: given[name] for name in given.keys() & cls.model_fields if given[name]})
        except ValidationError as error:
            raise ConfigurationError(_first_problem(error)) from None


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def describe() -> str:
    """Every setting with its default and meaning, as `--help` shows it."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory else _written(field.default)
        lines.append(f"  {variable(name)}{f'  [{default}]' if default else ''}\n      {field.description}")
    return "\n".join(lines)


def _written(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}s"
    return "" if default in (None, ()) else str(default)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = variable(str(problem["loc"][0])) if problem["loc"] else "settings"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
