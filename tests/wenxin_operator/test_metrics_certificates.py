"""The metrics API's certificate: trusted at every moment, renewed long before it ends, by whichever copy."""

import base64
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from wenxin_operator.metrics_api.certificates import AUTHORITY_LIFE, CERTIFICATE_LIFE, SKEW, Credentials, renewed

HOST = "wenxin-operator-metrics-api.wenxin-system.svc"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def trusted(served: Credentials, bundle: bytes) -> bool:
    """Whether whoever trusts `bundle` accepts what is served."""
    certificate = x509.load_pem_x509_certificate(served.certificate)
    for authority in x509.load_pem_x509_certificates(bundle):
        if certificate.issuer == authority.subject:
            certificate.verify_directly_issued_by(authority)
            return True
    return False


def test_the_first_certificate_is_for_the_services_name_and_trusted() -> None:
    made = renewed(None, HOST, NOW)
    certificate = x509.load_pem_x509_certificate(made.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    assert certificate.not_valid_before_utc == NOW - SKEW
    assert trusted(made, made.bundle)


def test_while_nothing_is_due_nothing_changes() -> None:
    made = renewed(None, HOST, NOW)
    assert renewed(made, HOST, NOW + CERTIFICATE_LIFE / 2) is made


def test_what_a_secret_holds_is_read_back() -> None:
    made = renewed(None, HOST, NOW)
    assert Credentials.from_data(made.data()) == made


@pytest.mark.parametrize("broken", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
def test_a_secret_that_is_not_whole_is_as_good_as_none(broken: str) -> None:
    data = renewed(None, HOST, NOW).data()
    assert Credentials.from_data({key: value for key, value in data.items() if key != broken}) is None
    assert Credentials.from_data(data | {broken: base64.b64encode(b"none").decode()}) is None
    assert Credentials.from_data(data | {broken: "?"}) is None
    assert Credentials.from_data(None) is None


def test_over_ten_years_what_anybody_serves_is_trusted_by_who_trusts_what_was_or_what_is() -> None:
    """One copy has looked, another has not yet: each pair of neighbouring states gets along."""
    held, now, renewals = renewed(None, HOST, NOW), NOW, 0
    while now < NOW + 2 * AUTHORITY_LIFE:
        now += timedelta(days=5)
        after = renewed(held, HOST, now)
        assert trusted(held, after.bundle)
        assert trusted(after, held.bundle)
        left = x509.load_pem_x509_certificate(after.certificate).not_valid_after_utc - now
        assert left > CERTIFICATE_LIFE / 5
        renewals += after.certificate != held.certificate
        held = after
    assert renewals > 50
    assert 1 <= len(held.authorities) <= 2


def test_another_name_needs_another_certificate() -> None:
    made = renewed(None, HOST, NOW)
    moved = renewed(made, "elsewhere.svc", NOW)
    assert moved.certificate != made.certificate
    assert moved.bundle == made.bundle


def test_what_has_expired_while_nobody_looked_is_made_anew() -> None:
    made = renewed(None, HOST, NOW)
    later = NOW + AUTHORITY_LIFE + timedelta(days=1)
    assert len(renewed(made, HOST, later).authorities) == 1


WITHOUT_A_DISK = """
import os, sys
from datetime import UTC, datetime
from wenxin_operator.metrics_api import server
from wenxin_operator.metrics_api.callers import FrontProxy
from wenxin_operator.metrics_api.certificates import renewed

def read_only(event, arguments):
    if event.startswith(("tempfile.", "os.mkdir", "os.link", "os.symlink")):
        raise OSError(30, f"{event}: read-only file system")
    if event == "open" and not isinstance(arguments[0], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        raise OSError(30, f"{arguments[0]}: read-only file system")

sys.addaudithook(read_only)
try:
    open("tried", "w")
except OSError:
    held = renewed(None, "metrics.svc", datetime.now(UTC))
    before = set(os.listdir("/proc/self/fd"))
    context = server._context(held, FrontProxy(held.bundle.decode(), (), (), (), (), ()))
    print(context.cert_store_stats()["x509_ca"], set(os.listdir("/proc/self/fd")) - before)
"""


def test_the_key_is_served_from_a_read_only_root_without_tmp(tmp_path: Path) -> None:
    """Python's ssl takes a key from a path alone. Here no program can open any path to write, as in our pods."""
    nowhere = {name: str(tmp_path / "none") for name in ("TMPDIR", "TEMP", "TMP")}
    environment = {**os.environ, **nowhere, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_DISK],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "1 set()\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_that_its_authority_did_not_issue_is_made_anew() -> None:
    made, other = renewed(None, HOST, NOW), renewed(None, HOST, NOW + timedelta(seconds=1))
    mixed = Credentials(other.authorities, other.authority_key, made.certificate, made.key)
    again = renewed(mixed, HOST, NOW)
    assert trusted(again, again.bundle)
