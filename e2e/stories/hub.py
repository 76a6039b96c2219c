"""A hub in the cluster: it speaks Hugging Face's protocol for a tiny checkpoint, breaks off, and can be made to stall.

A pod of the runtime's image with a server of the standard library. What it sent of each file is told at /sent; after
POST /stall it sends no more than the first chunk of the weights, until POST /go.
"""

from e2e.harness.cluster import Object
from e2e.stories.checkpoints import IMAGE, SCRATCH

NAME = "hub"
PORT = 8080
REPOSITORY = "wenxin/ERNIE-4.5-tiny-PT"
CHUNK = 16 * 2**20
"""Bytes of one request of the download."""

# The vocabulary is that of the released models, so that the weights are more than one chunk.
_SERVER = """
import hashlib, http.server, json, pathlib, re, subprocess, threading
REPOSITORY, PORT, CHUNK = "@REPOSITORY@", @PORT@, @CHUNK@
ROOT, WEIGHTS, COMMIT = pathlib.Path("/tmp/tiny"), "model.safetensors", "0123456789" * 4
subprocess.run(["wenxin-runtime", "fixture", ROOT, "--seed", "7", "--vocab-size", "103424"], check=True)
FILES = {str(path.relative_to(ROOT)): path.read_bytes() for path in sorted(ROOT.rglob("*")) if path.is_file()}
go, lock, sent, broken = threading.Event(), threading.Lock(), {}, set()
go.set()

def entry(name, body):
    lfs = {"lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body)}} if name == WEIGHTS else {}
    blob = hashlib.sha1(b"blob %d\\0" % len(body) + body).hexdigest()
    return {"type": "file", "path": name, "size": len(body), "oid": blob, **lfs}

class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        go.clear() if self.path == "/stall" else go.set()
        self.answer(200, b"{}")

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/sent":
            with lock:
                self.answer(200, json.dumps(sent).encode())
        elif re.fullmatch(f"/api/models/{REPOSITORY}/revision/(main|{COMMIT})", path):
            self.answer(200, json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode())
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            self.answer(200, json.dumps([entry(*one) for one in FILES.items()]).encode())
        elif (found := re.fullmatch(f"/{REPOSITORY}/resolve/{COMMIT}/(.+)", path)) and found[1] in FILES:
            self.file(found[1], FILES[found[1]])
        else:
            self.answer(404, b"not here")

    def file(self, name, body):
        asked = re.fullmatch(r"bytes=(\\d+)-(\\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1 if asked and asked[2] else len(body), len(body))
        ranged = {"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"} if asked else {}
        self.head(206 if asked else 200, end - start, {"ETag": '"' + COMMIT + '"', **ranged})
        for at in range(start, end, 65536):
            if name == WEIGHTS and at >= CHUNK:
                go.wait()
            if name == WEIGHTS and at - start >= 2**20 and at // CHUNK not in broken:
                broken.add(at // CHUNK)  # each chunk of the weights is broken off once
                self.close_connection = True
                return
            piece = body[at : min(at + 65536, end)]
            self.wfile.write(piece)
            with lock:
                sent[name] = sent.get(name, 0) + len(piece)

    def answer(self, status, body):
        self.head(status, len(body), {"Content-Type": "application/json"})
        self.wfile.write(body)

    def head(self, status, length, headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

http.server.ThreadingHTTPServer(("", PORT), Hub).serve_forever()
"""


def manifests() -> list[Object]:
    """The pod and its Service; within the restricted Pod Security Standard."""
    words = {"@REPOSITORY@": REPOSITORY, "@PORT@": str(PORT), "@CHUNK@": str(CHUNK)}
    script = _SERVER
    for word, meaning in words.items():
        script = script.replace(word, meaning)
    container = {
        "name": NAME,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-u", "-c", script],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "env": [{"name": "HOME", "value": SCRATCH}],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/sent", "port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "tmp", "mountPath": SCRATCH}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    service = {"selector": {"app": NAME}, "ports": [{"port": PORT}]}
    metadata = {"name": NAME, "labels": {"app": NAME}}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]
