"""A team applies one YAML and gets an OpenAI-compatible endpoint."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from docs.readme import READMES, REPOSITORY, cluster_blocks
from e2e.stories.endpoint import Endpoint, summary


def test_one_yaml_becomes_an_endpoint_that_is_ready(tiny: Endpoint) -> None:
    resource = tiny.get()
    status = resource["status"]
    expected = {"Accepted": "True", "ModelReady": "True", "Progressing": "False", "Available": "True", "Ready": "True"}
    assert {each["type"]: each["status"] for each in status["conditions"]} == expected, summary(resource)
    assert {each["observedGeneration"] for each in status["conditions"]} == {resource["metadata"]["generation"]}
    assert (status["replicas"], status["readyReplicas"], status["gpus"]) == (1, 1, 0)
    assert status["endpoint"] == f"http://tiny.{tiny.namespace}.svc:8000/v1"
    assert status["model"]["architecture"] == "Ernie4_5ForCausalLM"
    assert status["model"]["digest"].startswith("sha256:")
    assert status["model"]["contextLength"] == 8192


def test_its_model_says_what_the_files_say(tiny: Endpoint) -> None:
    status = tiny.cluster.get("wenxinmodel/tiny", namespace=tiny.namespace)["status"]
    assert status["digest"] == tiny.get()["status"]["model"]["digest"]
    assert status["facts"]["dtype"] == "float32"
    assert status["facts"]["parameters"] == tiny.get()["status"]["model"]["parameters"] > 0


def test_kubectl_get_shows_what_a_person_asks_first(tiny: Endpoint) -> None:
    heads, row = tiny.cluster.kubectl("get", "wd", "tiny", namespace=tiny.namespace).splitlines()
    assert heads.split() == ["NAME", "READY", "REPLICAS", "MODEL", "GPUS", "AGE"]
    assert row.split()[:5] == ["tiny", "True", "1", "tiny", "0"]
    assert re.search(r"\bTrue\b", tiny.cluster.kubectl("get", "wm", "tiny", namespace=tiny.namespace))


def test_the_openai_package_streams_a_chat_answer_through_the_service(tiny: Endpoint) -> None:
    with tiny.url() as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        chunks = list(
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "你好"}],
                max_completion_tokens=16,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert len(reasons) == 1
    assert reasons[0] in ("length", "stop")
    assert chunks[-1].usage
    assert 1 <= chunks[-1].usage.completion_tokens <= 16


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        pytest.param('{"model": "gpt", "prompt": "a"}', 404, "gpt", id="unknown model"),
        pytest.param('{"model": "tiny", "prompt": "a"', 400, "JSON", id="malformed JSON"),
        pytest.param('{"model": "tiny", "prompt": "a", "max_tokens": -1}', 400, "max_tokens", id="negative max_tokens"),
        pytest.param(json.dumps({"model": "tiny", "prompt": [5] * 8192}), 400, "8192", id="prompt too long"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why_and_disturbs_nobody(
    tiny: Endpoint, body: str, status: int, word: str
) -> None:
    with tiny.client() as client:
        answer = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]
    assert tiny.ask()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_what_the_readme_says_to_type_streams_an_answer(page: Path) -> None:
    (block,) = cluster_blocks(page)
    done = subprocess.run(
        [sys.executable, "-m", "e2e.harness", "shell"],
        cwd=REPOSITORY,
        env=os.environ | {"SHELL": "/bin/bash"},
        input=f"set -eu\ntrap 'kill %1' EXIT\n{block}",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[0])["object"] == "chat.completion.chunk"


def test_pods_run_restricted_and_hold_no_token(tiny: Endpoint) -> None:
    spec = tiny.pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert [volume for volume in spec["volumes"] if "projected" in volume] == []
    name = tiny.pod()["metadata"]["name"]
    probe = "import os; print(os.getuid(), os.path.exists('/var/run/secrets/kubernetes.io'), os.access('/', os.W_OK))"
    assert tiny.cluster.exec(name, "python3", "-c", probe, namespace=tiny.namespace).split() == [
        "65532",
        "False",
        "False",
    ]


def test_metrics_count_what_was_asked(tiny: Endpoint) -> None:
    with tiny.client() as client:
        before = _value(client.get("/metrics").text, "wenxin_generation_tokens_total")
        client.post("/v1/completions", json={"model": "tiny", "prompt": "你", "max_tokens": 5, "ignore_eos": True})
        after = _value(client.get("/metrics").text, "wenxin_generation_tokens_total")
    assert after - before == 5


def _value(metrics: str, name: str) -> float:
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE)
    assert found, f"{name} is not there"
    return float(found[1])
