"""The Redis that keeps a deployment's answers: one that the operator runs, or where the user's own is mounted.

A managed one is a StatefulSet of one pod that keeps nothing on disk. Its password stands in a Secret that is made once,
before the StatefulSet, and that the operator can neither read nor change: Redis and the pods read it as a file. Who
wants another password deletes both objects; both come back. Redis' liveness probe logs in with what the file says now,
so that Redis starts anew when the Secret changes, and the runtime reads its URL again when Redis refuses it.
"""

from collections.abc import Iterator
from typing import Any

from wenxin_operator import names
from wenxin_operator.api.answer_cache import AnswerCache, ManagedRedis, Redis, memory_bytes
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.names import (
    COMPONENT_REDIS,
    CONFIG_MAP,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    NETWORK_POLICY,
    SERVICE,
    STATEFUL_SET,
    Raw,
    child_labels,
    pod_selector,
)
from wenxin_operator.observe import DeploymentSnapshot
from wenxin_operator.plan.manifest import POD_SECURITY, OperatorSettings, Owner, container, pull_secrets

PORT = 6379
USER = "wenxin"
MOUNT = "/etc/wenxin-redis"
_SECRET = "/etc/redis-secret"  # noqa: S105 - a folder
_CONFIG = "/etc/redis-config"
_RUN = "/run/redis"
# The rest is for connections, what is being freed, and what the allocator holds.
_SHARE_FOR_ANSWERS = 3 / 4
_URL, _CA = "url", "ca.crt"

_MAY = (
    "~wenxin:* resetchannels -@all +@connection -@admin -@dangerous"
    " +get +set +unlink +scan +strlen +memory|usage +info +dbsize +ping"
)
"""What the pods' user may do: what the cache and `kubectl wenxin cache` need. There is no other user."""

# printf is the shell's own, so that no list of processes shows the password.
_START = f"""\
umask 077
{{ cat {_CONFIG}/redis.conf; printf 'user {USER} on >%s {_MAY}\\n' "$(cat {_SECRET}/password)"; }} > {_RUN}/redis.conf
exec redis-server {_RUN}/redis.conf
"""
_PING = (
    f'REDISCLI_AUTH="$(cat {_SECRET}/password)" redis-cli --user {USER} --no-auth-warning ping 2>/dev/null'
    " | grep -q PONG"
)


def objects(owner: Owner, spec: DeploymentSpec, settings: OperatorSettings) -> Iterator[Raw]:
    """What a managed Redis is made of; nothing without one. The Secret is not among it.

    Args:
        owner: The WenxinDeployment.
        spec: Its spec.
        settings: The operator's.
    """
    if spec.answer_cache is None or (managed := spec.answer_cache.redis.managed) is None:
        return
    config = _config_map(owner, managed)
    yield config
    yield _policy(owner)
    yield _service(owner)
    yield _stateful_set(owner, spec, managed, config["metadata"]["name"], settings)


def lacks_secret(spec: DeploymentSpec, seen: DeploymentSnapshot) -> bool:
    """Whether the Secret may be missing, which nobody can read.

    So it is made sure of while Redis is not ready or does not answer a pod: somebody may have deleted it, or the
    garbage collector that of an earlier deployment of this name after ours was asked for.
    """
    managed = spec.answer_cache is not None and spec.answer_cache.redis.managed is not None
    return managed and (not is_ready(seen) or "down" in seen.caches.values())


def secret(owner: Owner) -> Raw:
    """The Secret, to be made unless there is one of its name. `PASSWORD` stands for what whoever makes it draws."""
    name = names.redis(owner.key.name)
    url = f"redis://{USER}:PASSWORD@{name}.{owner.key.namespace}.svc:{PORT}"
    values = {_URL: url, "password": "PASSWORD"}
    return owner.child(names.SECRET, name, COMPONENT_REDIS, type="Opaque", stringData=values)


def is_ready(seen: DeploymentSnapshot) -> bool:
    """Whether a managed Redis is ready."""
    live = next((child for child in seen.children if child["kind"] == STATEFUL_SET and is_redis(child)), {})
    return bool((live.get("status") or {}).get("readyReplicas"))


def is_redis(thing: Raw) -> bool:
    """Whether an object is part of a managed Redis."""
    labels: dict[str, str] = thing["metadata"].get("labels") or {}
    return labels.get(LABEL_COMPONENT) == COMPONENT_REDIS


def environment(spec: DeploymentSpec) -> tuple[Raw, ...]:
    """Where a serving pod finds what it needs to know of Redis."""
    if spec.answer_cache is None:
        return ()
    files = {"WENXIN_REDIS_URL_FILE": _URL}
    if spec.answer_cache.redis.ca_secret_ref:
        files["WENXIN_REDIS_CA_FILE"] = _CA
    return tuple({"name": name, "value": f"{MOUNT}/{file}"} for name, file in files.items())


def mounts(spec: DeploymentSpec) -> tuple[Raw, ...]:
    """Where it sees that."""
    return ({"name": "redis", "mountPath": MOUNT, "readOnly": True},) if spec.answer_cache else ()


def volumes(deployment: str, spec: DeploymentSpec) -> tuple[Raw, ...]:
    """The Secrets' values that a serving pod reads. It starts without them, too: a cache is nothing to wait for."""
    if spec.answer_cache is None:
        return ()
    sources = [_mounted(name, key, file) for name, key, file in _values(deployment, spec.answer_cache.redis)]
    return ({"name": "redis", "projected": {"sources": sources}},)


def egress(deployment: str, cache: AnswerCache | None) -> list[Raw]:
    """Where the serving pods may go for it."""
    if cache is None:
        return []
    if cache.redis.managed:
        return [{"to": [{"podSelector": {"matchLabels": _selector(deployment)}}], "ports": [_port(PORT)]}]
    return [{"ports": [_port(port) for port in cache.redis.ports or (PORT,)]}]


def _values(deployment: str, redis: Redis) -> Iterator[tuple[str, str, str]]:
    """Secret, key in it, and file."""
    if redis.managed:
        yield names.redis(deployment), _URL, _URL
    if redis.url_secret_ref:
        yield redis.url_secret_ref.name, redis.url_secret_ref.key, _URL
    if redis.ca_secret_ref:
        yield redis.ca_secret_ref.name, redis.ca_secret_ref.key, _CA


def _mounted(name: str, key: str, file: str) -> Raw:
    return {"secret": {"name": name, "items": [{"key": key, "path": file}], "optional": True}}


def _selector(deployment: str) -> dict[str, str]:
    return {LABEL_DEPLOYMENT: deployment, LABEL_COMPONENT: COMPONENT_REDIS}


def _port(number: int) -> Raw:
    return {"port": number, "protocol": "TCP"}


def _config_map(owner: Owner, managed: ManagedRedis) -> Raw:
    text = "\n".join(_config(managed)) + "\n"
    name = names.redis_config_map(owner.key.name, text)
    return owner.child(CONFIG_MAP, name, COMPONENT_REDIS, immutable=True, data={"redis.conf": text})


def _config(managed: ManagedRedis) -> Iterator[str]:
    yield f"port {PORT}"
    yield f"dir {_RUN}"
    yield "protected-mode no"  # nobody comes in without the password below
    yield "user default off"
    yield f"maxmemory {int(memory_bytes(managed.memory) * _SHARE_FOR_ANSWERS)}"
    yield "maxmemory-policy allkeys-lfu"
    yield 'save ""'
    yield "appendonly no"
    yield "databases 1"
    yield "maxclients 4096"
    yield "tcp-keepalive 60"
    for lazily in ("eviction", "expire", "server-del"):
        yield f"lazyfree-lazy-{lazily} yes"  # freeing a large answer keeps nobody waiting


def _policy(owner: Owner) -> Raw:
    """In: this deployment's pods. Out: nowhere."""
    callers = [{"podSelector": {"matchLabels": pod_selector(owner.key.name)}}]
    return owner.child(
        NETWORK_POLICY,
        names.redis(owner.key.name),
        COMPONENT_REDIS,
        spec={
            "podSelector": {"matchLabels": _selector(owner.key.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": callers, "ports": [_port(PORT)]}],
        },
    )


def _service(owner: Owner) -> Raw:
    ports = [{"name": "redis", "port": PORT, "targetPort": "redis", "protocol": "TCP"}]
    spec = {"type": "ClusterIP", "selector": _selector(owner.key.name), "ports": ports}
    return owner.child(SERVICE, names.redis(owner.key.name), COMPONENT_REDIS, spec=spec)


def _stateful_set(
    owner: Owner, spec: DeploymentSpec, managed: ManagedRedis, config: str, settings: OperatorSettings
) -> Raw:
    name = names.redis(owner.key.name)
    return owner.child(
        STATEFUL_SET,
        name,
        COMPONENT_REDIS,
        spec={
            "replicas": 1,
            "serviceName": name,
            # With the default, a pod that never becomes ready is not replaced when its template is mended.
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": _selector(owner.key.name)},
            "template": {
                "metadata": {"labels": child_labels(owner.key, COMPONENT_REDIS)},
                "spec": _pod(owner, spec, managed, config, settings),
            },
        },
    )


def _pod(owner: Owner, spec: DeploymentSpec, managed: ManagedRedis, config: str, settings: OperatorSettings) -> Raw:
    secrets = pull_secrets(settings, [{"name": each.name} for each in spec.pod.image_pull_secrets])
    optional: dict[str, Any] = {
        "nodeSelector": managed.node_selector,
        "tolerations": [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in managed.tolerations],
        "imagePullSecrets": secrets,
    }
    password = {"secretName": names.redis(owner.key.name), "items": [{"key": "password", "path": "password"}]}
    return {
        "serviceAccountName": owner.key.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": 5,  # there is nothing to save
        "containers": [_container(managed, settings)],
        "volumes": [
            {"name": "secret", "secret": password},
            {"name": "config", "configMap": {"name": config}},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
        **{field: value for field, value in optional.items() if value},
    }


def _container(managed: ManagedRedis, settings: OperatorSettings) -> Raw:
    ping = {"exec": {"command": ["sh", "-c", _PING]}, "timeoutSeconds": 5}
    return container(
        "redis",
        settings.redis_image,
        settings,
        command=["sh", "-ec", _START],
        ports=[{"name": "redis", "containerPort": PORT, "protocol": "TCP"}],
        resources={"requests": {"cpu": "100m", "memory": managed.memory}, "limits": {"memory": managed.memory}},
        startupProbe=ping | {"periodSeconds": 1, "failureThreshold": 60},
        livenessProbe=ping | {"periodSeconds": 20, "failureThreshold": 3},
        readinessProbe=ping | {"periodSeconds": 10, "failureThreshold": 2},
        volumeMounts=[
            {"name": "secret", "mountPath": _SECRET, "readOnly": True},
            {"name": "config", "mountPath": _CONFIG, "readOnly": True},
            {"name": "run", "mountPath": _RUN},
        ],
    )
