"""The world of a plan: what stands in the cluster, with some files laid over it as if they had been applied."""

import datetime as dt
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wenxin_operator.api.status import ModelFacts
from wenxin_operator.cli.asking import Connection
from wenxin_operator.errors import ApiError, ConfigurationError, Forbidden, NotFound, OperatorError
from wenxin_operator.names import (
    DEPLOYMENT,
    OWNER_LABEL,
    RESOURCES,
    WENXIN_DEPLOYMENT,
    WENXIN_MODEL,
    Key,
    Raw,
    content_hash,
)
from wenxin_operator.settings import PREFIX, Settings
from wenxin_operator.store import Store

_NEWER = 2**60  # as the resourceVersion of what is laid over, newer than all that the cluster has
_OPERATOR = "app.kubernetes.io/name=wenxin-operator"


@dataclass
class World:
    """What the operator would see.

    Attributes:
        store: All objects.
        settings: The operator's.
        namespace: Of what names none.
        asked: The resources that were laid over it.
    """

    store: Store
    settings: Settings
    namespace: str
    asked: list[Key] = field(default_factory=list)

    def overlay(self, document: Raw, assumed: ModelFacts | None = None) -> None:
        """Lay one object over what stands there, as an apply would.

        Args:
            document: It.
            assumed: What a WenxinModel without verified weights is taken for.
        """
        kind = document["kind"]
        if kind not in RESOURCES:
            return
        namespace, name = document["metadata"].get("namespace") or self.namespace, document["metadata"]["name"]
        live = self.store.get(kind, namespace, name)
        thing = _applied(document, live, namespace)
        if kind == WENXIN_MODEL and assumed is not None:
            thing = _verified(thing, assumed)
        self.store.put(kind, thing)
        if kind in (WENXIN_DEPLOYMENT, WENXIN_MODEL):
            self.asked.append(Key(kind, namespace, name))
        if kind == WENXIN_DEPLOYMENT and assumed is not None:
            self._assume_own_model(thing, assumed)

    def _assume_own_model(self, deployment: Raw, assumed: ModelFacts) -> None:
        """The WenxinModel that the deployment asks for, or makes itself, as if it were there and verified."""
        choice = (deployment.get("spec") or {}).get("model")
        choice = choice if isinstance(choice, dict) else {}
        metadata = deployment["metadata"]
        name, namespace = str(choice.get("ref") or metadata["name"]), metadata["namespace"]
        live = self.store.get(WENXIN_MODEL, namespace, name)
        if live is None:
            spec = {key: value for key, value in choice.items() if key != "ref"} or {"source": "pvc://assumed/model"}
            live = _applied({"kind": WENXIN_MODEL, "metadata": {"name": name}, "spec": spec}, None, namespace)
        self.store.put(WENXIN_MODEL, _verified(live, assumed))


def of_nothing(namespace: str) -> World:
    """An empty cluster, and an operator as it comes."""
    return World(_store(), Settings.from_environment({}), namespace)


async def of_cluster(connection: Connection, namespaces: Sequence[str]) -> World:
    """What stands in some namespaces; what one may not list is taken for absent, and said.

    Raises:
        ApiError: the cluster can not be asked at all.
    """
    store = _store()
    for namespace in namespaces:
        for kind, resource in RESOURCES.items():
            try:
                listed = await connection.cluster.list(kind, namespace)
            except Forbidden:
                _say(f"you may not list {resource.plural} in {namespace}: the plan takes them for absent")
            except NotFound:
                if not resource.optional:
                    raise OperatorError(
                        f"this cluster has no {resource.plural}: install the chart first, or plan with --offline"
                    ) from None
            else:
                store.replace(kind, namespace, listed.items, listed.version)
    return World(store, await _settings(connection), namespaces[0])


def _store() -> Store:
    return Store(tuple(OWNER_LABEL.values()))


async def _settings(connection: Connection) -> Settings:
    """How the operator of this cluster is set up, where one may know; its defaults otherwise."""
    try:
        found = (await connection.cluster.list(DEPLOYMENT, None, selector=_OPERATOR)).items
    except ApiError:
        found = []
    for deployment in found:
        try:
            return _read(deployment)
        except (ConfigurationError, LookupError):
            continue
    _say("the operator's Deployment is not to be seen: the plan takes its default settings, such as the image")
    return Settings.from_environment({})


def _read(deployment: Raw) -> Settings:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    given = {one["name"]: str(one.get("value", "")) for one in containers[0].get("env", ())}
    given[f"{PREFIX}LEASE_NAMESPACE"] = deployment["metadata"]["namespace"]
    return Settings.from_environment(given)


def _applied(document: Raw, live: Raw | None, namespace: str) -> Raw:
    """The object as the API server would answer."""
    new: dict[str, Any] = {"uid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{namespace}/{document['metadata']['name']}"))}
    before = live["metadata"] if live else new | {"generation": 0, "creationTimestamp": _now()}
    same = live is not None and content_hash(live.get("spec")) == content_hash(document.get("spec"))
    changed = {
        "namespace": namespace,
        "generation": before.get("generation", 1) + (not same),
        "resourceVersion": str(_NEWER),
    }
    return {
        "apiVersion": RESOURCES[document["kind"]].api_version,
        **(live or {}),
        **document,
        "metadata": {**before, **document["metadata"], **changed},
    }


def _verified(model: Raw, facts: ModelFacts) -> Raw:
    """The WenxinModel as it will be once its weights are verified, if they are of this released model."""
    generation = model["metadata"]["generation"]
    told = {"reason": "Assumed", "message": "assumed for this plan", "lastTransitionTime": _now()}
    ready = {"type": "Ready", "status": "True", "observedGeneration": generation, **told}
    status = {
        "observedGeneration": generation,
        "digest": "sha256:assumed",
        "facts": facts.model_dump(mode="json", by_alias=True, exclude_none=True),
        "conditions": [ready],
    }
    metadata = {**model["metadata"], "resourceVersion": str(_NEWER + 1)}
    return {**model, "metadata": metadata, "status": {**status, **(model.get("status") or {})}}


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _say(text: str) -> None:
    print(f"kubectl-wenxin: {text}", file=sys.stderr)
