"""A managed Redis as the operator starts it, and the cache of the runtime: a real Redis, its own command and probe."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from bench.redis_server import free_ports
from tests.wenxin_operator.fake_cluster import Settings
from tests.wenxin_runtime.server.answers.test_store import Seen, found
from tests.wenxin_runtime.server.processes import until
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.names import CONFIG_MAP, STATEFUL_SET, WENXIN_DEPLOYMENT, Key, Raw
from wenxin_operator.plan import answer_cache
from wenxin_operator.plan.manifest import Owner
from wenxin_runtime.server.answers import store as module
from wenxin_runtime.server.answers.address import Address
from wenxin_runtime.server.answers.store import RedisStore

SPEC = DeploymentSpec.model_validate(
    {"model": {"ref": "ernie"}, "answerCache": {"redis": {"managed": {"memory": "64Mi"}}}}
)
OWNER = Owner(Key(WENXIN_DEPLOYMENT, "team", "ernie"), "uid")


def planned(kind: str) -> Raw:
    (found,) = [one for one in answer_cache.objects(OWNER, SPEC, Settings()) if one["kind"] == kind]
    return found


class Pod:
    """The pod's one container, with folders of this machine in place of its volumes."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port, self.process = directory, port, None
        (self.container,) = planned(STATEFUL_SET)["spec"]["template"]["spec"]["containers"]
        for mount in self.container["volumeMounts"]:
            (directory / mount["mountPath"].strip("/")).mkdir(parents=True)
        (directory / "etc/redis-config/redis.conf").write_text(
            self.here(planned(CONFIG_MAP)["data"]["redis.conf"].replace("port 6379", f"port {port}"))
        )
        self.password("one")

    def here(self, text: str) -> str:
        for mount in self.container["volumeMounts"]:
            text = text.replace(mount["mountPath"], f"{self.directory}{mount['mountPath']}")
        return text

    def password(self, value: str) -> None:
        (self.directory / "etc/redis-secret/password").write_text(value)

    def start(self) -> None:
        self.process = subprocess.Popen([*map(self.here, self.container["command"])], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not self.probe("startupProbe"):
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def probe(self, name: str) -> bool:
        command = [*map(self.here, self.container[name]["exec"]["command"])]
        command[-1] = command[-1].replace("redis-cli", f"redis-cli -p {self.port}")
        return subprocess.run(command, check=False, timeout=30).returncode == 0

    def client(self, **login: str) -> redis.Redis:
        return redis.Redis("127.0.0.1", self.port, **login)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    pod = Pod(tmp_path, *free_ports(1))
    pod.start()
    yield pod
    pod.stop()


def test_nobody_comes_in_without_the_password_and_no_list_of_processes_shows_it(pod: Pod) -> None:
    with pod.client() as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with pod.client(username="wenxin", password="two") as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert b"one" not in Path(f"/proc/{pod.process.pid}/cmdline").read_bytes().replace(b"none", b"")
    assert (pod.directory / "run/redis/redis.conf").stat().st_mode & 0o077 == 0


def test_the_pods_may_do_what_a_cache_does_and_nothing_else(pod: Pod) -> None:
    with pod.client(username="wenxin", password="one") as client:
        assert client.info("memory")["maxmemory"] == 48 * 2**20
        assert client.info("memory")["maxmemory_policy"] == "allkeys-lfu"
        for refused in (
            ["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["SAVE"], ["SHUTDOWN"], ["ACL", "LIST"],
            ["CLIENT", "KILL", "TYPE", "normal"], ["CLIENT", "LIST"],
            ["EVAL", "return 1", "0"], ["REPLICAOF", "a", "b"],
            ["GET", "other"], ["SET", "other", "1"], ["MODULE", "LIST"], ["PUBLISH", "wenxin:1", "1"], ["MONITOR"],
        ):  # fmt: skip
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*refused)


def test_a_full_one_makes_room_by_itself(pod: Pod) -> None:
    with pod.client(username="wenxin", password="one") as client:
        for number in range(80):
            client.set(f"wenxin:answer:1:{number}", b"x" * 2**20)
        assert client.info("stats")["evicted_keys"] > 20
        assert client.dbsize() > 20


async def test_the_runtimes_cache_works_with_it_and_follows_a_changed_password(
    pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROBE_AFTER_SECONDS", (0.05,))
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.5)
    secret = answer_cache.secret(OWNER)
    url = secret["stringData"]["url"].replace("ernie-redis-077ae60e.team.svc:6379", f"127.0.0.1:{pod.port}")
    file, seen = tmp_path / "url", Seen()
    file.write_text(url.replace("PASSWORD", "one"))
    store = RedisStore(Address(url_file=str(file)), 100.0, seen)
    await store.connect(b"model")
    store.put(b"1", b"value")
    assert await found(store, b"1") == b"value"
    store.drop(b"1")
    await until(lambda: not store._writes)
    assert seen.errors == ["corrupt"]

    assert pod.probe("livenessProbe")
    pod.password("two")
    assert not pod.probe("livenessProbe"), "the kubelet starts it anew"
    pod.stop()
    pod.start()
    await store.get(b"1")
    assert seen.is_open
    file.write_text(url.replace("PASSWORD", "two"))
    await until(lambda: not seen.is_open)
    store.put(b"2", b"value")
    assert await found(store, b"2") == b"value"
    await store.close()
