"""A small API server in this process: what the operator needs of it, with the real one's version and watch semantics.

Kept honest by e2e/stories/operator_api, where the same operator meets the real one. Not modelled: schemas, defaulting,
garbage collection, merging of lists (an applied list replaces the live one), field conflicts (an apply is forced).
"""

import asyncio
import copy
import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tests.wenxin_operator.api_requests import (
    Object,
    Request,
    Target,
    covers,
    kind_of,
    matches,
    merged,
    parse,
    seen,
    strip,
    without,
)
from wenxin_operator.names import RESOURCES

BOOKMARK_SECONDS = 30.0
EXTRA = {"events.k8s.io/v1": {"events": "Event"}, "coordination.k8s.io/v1": {"leases": "Lease"}}


@dataclass
class FakeApi:
    """Use as `async with FakeApi() as api:`; `api.url` is where it listens."""

    objects: dict[tuple[str, str, str, str], Object] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    allows: Callable[[Request], bool] = lambda _: True
    page: int | None = None  # a smaller page than asked for
    version: int = 100
    compacted: int = 0
    down: bool = False  # connections break
    silent: bool = False  # nothing is answered
    token: str | None = None  # when set, the only one that is let in
    watch_error: int | None = None  # what every watch ends with
    lacks: set[str] = field(default_factory=set)  # plurals of kinds that are not installed

    def __post_init__(self) -> None:
        self._history: list[tuple[int, str, Target, Object]] = []
        self._changed = asyncio.Condition()
        self._applied: dict[tuple[Any, ...], Object] = {}
        self._faults: list[web.Response] = []
        self._watching: set[asyncio.Task[Any]] = set()
        self._frozen: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut_watches()
        await self._runner.cleanup()

    def fail(self, times: int, status: int, **headers: str) -> None:
        """Answer the next requests with an error."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps({"kind": "Status", "message": "told to fail", "reason": "Told"})
        self._faults += [web.Response(status=status, text=body, headers=named) for _ in range(times)]

    def cut_watches(self) -> None:
        """Break every watch that is open."""
        for task in self._watching:
            task.cancel()

    def freeze_watches(self) -> None:
        """Say nothing more in any watch that is open, and close none: a connection that was lost on the way."""
        self._frozen |= self._watching

    def compact(self) -> None:
        """Forget history: a watch or continue token from before is answered 410."""
        self.compacted = self.version
        self._history.clear()

    async def put(self, manifest: Object, *, status: bool = False) -> Object:
        """Create or replace an object as somebody else than the operator would."""
        target = self.target(
            manifest["apiVersion"], manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        )
        live = self.objects.get(target.key, {})
        merged = {**live, **copy.deepcopy(manifest), "metadata": {**live.get("metadata", {}), **manifest["metadata"]}}
        if not status and "status" in live:
            merged.setdefault("status", live["status"])
        return await self._store(target, merged)

    async def remove(self, kind: str, namespace: str, name: str, *, silently: bool = False) -> None:
        """Delete an object as somebody else would; silently: as if a watch had a gap."""
        await self._delete(self.target(RESOURCES[kind].api_version, kind, namespace, name), silently=silently)

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object of a watched kind as it is now."""
        return self.objects.get(self.target(RESOURCES[kind].api_version, kind, namespace, name).key)

    def of(self, plural: str) -> list[Object]:
        """All objects of a resource."""
        return [thing for (_, stored, _, _), thing in self.objects.items() if stored == plural]

    def writes(self) -> list[Request]:
        """The requests that change something, renewals of the lease left out."""
        quiet = ("get", "list", "watch")
        return [each for each in self.requests if each.verb not in quiet and each.resource != "leases"]

    def target(self, api_version: str, kind: str, namespace: str, name: str) -> Target:
        plurals = {kind: plural for plural, kind in EXTRA.get(api_version, {}).items()}
        plural = plurals.get(kind) or RESOURCES[kind].plural
        return Target(api_version, plural, namespace, name)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            assert request.transport
            request.transport.abort()
            return web.Response()
        if self.silent:
            await asyncio.Event().wait()
        if self._faults:
            return self._faults.pop(0)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        parts = request.path.strip("/").split("/")
        if len(parts) < (3 if parts[0] == "api" else 4):
            return self._discover(parts)
        target = parse(parts)
        about = seen(request, target)
        self.requests.append(about)
        if not self.allows(about):
            return _status(403, "Forbidden", f"may not {about.verb} {about.resource}")
        return await self._answer(about, request, target)

    async def _answer(self, seen: Request, request: web.Request, target: Target) -> web.StreamResponse:
        if target.plural in self.lacks:
            return web.Response(status=404, text="404 page not found")
        return await getattr(self, f"_{seen.verb}")(request, target)

    async def _get(self, _: web.Request, target: Target) -> web.Response:
        live = self.objects.get(target.key)
        return web.json_response(live) if live else _missing(target)

    async def _list(self, request: web.Request, target: Target) -> web.Response:
        start, as_of = 0, self.version
        if token := request.query.get("continue"):
            as_of, start = map(int, token.split("-"))
            if as_of < self.compacted:
                return _status(410, "Expired", "the continue token is too old")
        items = [strip(thing) for thing in self._selected(request, target)]
        size = self.page or int(request.query.get("limit", len(items) or 1))
        more = f"{as_of}-{start + size}" if start + size < len(items) else ""
        metadata = {"resourceVersion": str(as_of), "continue": more}
        kind = f"{kind_of(target)}List"
        body = {
            "kind": kind,
            "apiVersion": target.api_version,
            "metadata": metadata,
            "items": items[start : start + size],
        }
        return web.json_response(body)

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        task = asyncio.current_task()
        assert task
        self._watching.add(task)
        try:
            async for kind, thing in self._events(request, target):
                if task in self._frozen:
                    await asyncio.Event().wait()
                await response.write(json.dumps({"type": kind, "object": thing}).encode() + b"\n")
        except (asyncio.CancelledError, ConnectionError):
            if request.transport:
                request.transport.abort()
        finally:
            self._watching.discard(task)
            self._frozen.discard(task)
        return response

    async def _events(self, request: web.Request, target: Target) -> Any:
        since = int(request.query["resourceVersion"])
        if since < self.compacted:
            yield "ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            return
        while True:
            if self.watch_error:
                yield "ERROR", {"kind": "Status", "code": self.watch_error, "message": "told to fail"}
                return
            for version, kind, at, thing in list(self._history):
                if version > since and covers(target, at) and matches(request, thing):
                    yield kind, thing
            since = self.version
            async with self._changed:
                try:
                    await asyncio.wait_for(self._changed.wait(), BOOKMARK_SECONDS)
                except TimeoutError:
                    yield "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}

    async def _create(self, request: web.Request, target: Target) -> web.Response:
        manifest = await request.json()
        target.name = manifest["metadata"]["name"]
        if target.key in self.objects:
            return _status(409, "AlreadyExists", f"{target.plural} {target.name} already exists")
        return web.json_response(await self._store(target, manifest), status=201)

    async def _update(self, request: web.Request, target: Target) -> web.Response:
        manifest, live = await request.json(), self.objects.get(target.key)
        if not live:
            return _missing(target)
        if manifest["metadata"].get("resourceVersion") not in (None, live["metadata"]["resourceVersion"]):
            return _status(409, "Conflict", "the object has been modified")
        return web.json_response(await self._store(target, {**manifest, "metadata": live["metadata"]}))

    async def _patch(self, request: web.Request, target: Target) -> web.Response:
        change, live = json.loads(await request.read()), self.objects.get(target.key)
        if request.content_type == "application/merge-patch+json":
            if not live:
                return _missing(target)
            uid = (change.get("metadata") or {}).get("uid")
            if uid not in (None, live["metadata"]["uid"]):
                return _status(409, "Conflict", f"uid in precondition: {uid}")
            return web.json_response(await self._store(target, merged(live, change)))
        return await self._apply(change, target, live, request.query["fieldManager"])

    async def _apply(self, change: Object, target: Target, live: Object | None, manager: str) -> web.Response:
        if target.subresource and not live:
            return _missing(target)
        uid = change["metadata"].get("uid")
        if live and uid not in (None, live["metadata"]["uid"]):
            return _status(409, "Conflict", f"uid in precondition: {uid}")
        before = self._applied.get((*target.key, target.subresource, manager), {})
        self._applied[*target.key, target.subresource, manager] = change
        result = merged(without(live or {}, before, change), change)
        created = not live
        return web.json_response(await self._store(target, result), status=201 if created else 200)

    async def _delete(
        self, request: web.Request | Target, target: Target | None = None, *, silently: bool = False
    ) -> Any:
        if isinstance(request, Target):
            target, wanted = request, None
        else:
            wanted = (await request.json()).get("preconditions", {}).get("uid") if request.can_read_body else None
        assert target
        live = self.objects.get(target.key)
        if not live:
            return _missing(target)
        if wanted and wanted != live["metadata"]["uid"]:
            return _status(409, "Conflict", "uid in precondition")
        self.version += 1
        del self.objects[target.key]
        last = {**live, "metadata": {**live["metadata"], "resourceVersion": str(self.version)}}
        if not silently:
            await self._tell("DELETED", target, last)
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _store(self, target: Target, manifest: Object) -> Object:
        live = self.objects.get(target.key)
        born = {"uid": str(uuid.uuid4()), "creationTimestamp": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
        before = live["metadata"] if live else {**born, "generation": 1}
        thing = copy.deepcopy(manifest)
        kept = {key: before[key] for key in ("uid", "creationTimestamp", "generation")}
        thing["metadata"] = {**thing["metadata"], "namespace": target.namespace, "name": target.name, **kept}
        if live and thing.get("spec") != live.get("spec"):
            thing["metadata"]["generation"] += 1
        if live and strip(thing, "resourceVersion") == strip(live, "resourceVersion"):
            return live  # as the real one: a write that changes nothing makes no version
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        self.objects[target.key] = thing
        await self._tell("MODIFIED" if live else "ADDED", target, thing)
        return thing

    async def _tell(self, kind: str, target: Target, thing: Object) -> None:
        self._history.append((self.version, kind, target, copy.deepcopy(thing)))
        async with self._changed:
            self._changed.notify_all()

    def _selected(self, request: web.Request, target: Target) -> Iterator[Object]:
        for (api_version, plural, namespace, name), thing in sorted(self.objects.items()):
            if covers(target, Target(api_version, plural, namespace, name)) and matches(request, thing):
                yield thing

    def _discover(self, parts: list[str]) -> web.Response:
        groups: dict[str, dict[str, str]] = {version: dict(kinds) for version, kinds in EXTRA.items()}
        groups["apiextensions.k8s.io/v1"] = {"customresourcedefinitions": "CustomResourceDefinition"}
        groups["v1"] = {"namespaces": "Namespace", "events": "Event"}
        for kind, resource in RESOURCES.items():
            if resource.plural in self.lacks:
                continue
            groups.setdefault(resource.api_version, {})[resource.plural] = kind
        if parts == ["api"]:
            return web.json_response({"versions": ["v1"]})
        if parts == ["apis"]:
            named = [version.split("/") for version in groups if "/" in version]
            return web.json_response({"groups": [_group(*pair) for pair in named]})
        listed = groups["/".join(parts[1:])]
        verbs = ["get", "list", "watch", "create", "update", "patch", "delete"]
        about = {"singularName": "", "namespaced": True, "verbs": verbs}
        return web.json_response(
            {"resources": [{"name": plural, "kind": kind, **about} for plural, kind in listed.items()]}
        )


def _group(name: str, version: str) -> Object:
    return {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": message}, status=code)


def _missing(target: Target) -> web.Response:
    return _status(404, "NotFound", f'{target.plural} "{target.name}" not found')
