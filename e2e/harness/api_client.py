"""An HTTP client for the API server, out of one of our own kubeconfigs (which are JSON)."""

import json
import ssl
from pathlib import Path

import httpx


def connect(kubeconfig: Path, *, timeout: float = 10.0) -> httpx.Client:
    """A client whose base is the API server and whose certificate is the kubeconfig's user."""
    config = json.loads(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    context.load_cert_chain(user["client-certificate"], user["client-key"])
    return httpx.Client(base_url=cluster["server"], verify=context, timeout=timeout, trust_env=False)


def answers(client: httpx.Client, path: str) -> bool:
    """True when a GET of the path is answered with success."""
    try:
        return client.get(path).is_success
    except httpx.TransportError:
        return False
