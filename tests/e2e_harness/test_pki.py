import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from e2e.harness import pki


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return pki.Authority.create(tmp_path / "pki", "ca")


def load(authority: pki.Authority, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((authority.folder / f"{name}.crt").read_bytes())


def test_a_clients_certificate_names_its_user_and_group(authority: pki.Authority) -> None:
    authority.issue("admin", "admin", group="system:masters")
    certificate = load(authority, "admin")
    certificate.verify_directly_issued_by(authority.certificate)
    (user,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    (group,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert (user.value, group.value) == ("admin", "system:masters")
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_servers_certificate_holds_its_names_and_addresses(authority: pki.Authority) -> None:
    authority.issue("apiserver", "kube-apiserver", usage="server", hosts=["kubernetes", "10.96.0.1"])
    names = load(authority, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kubernetes"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.96.0.1"]


def test_keys_are_for_their_owner_only(authority: pki.Authority) -> None:
    authority.issue("admin", "admin")
    pki.write_signing_key(authority.folder, "sa")
    for name in ("ca", "admin", "sa"):
        assert stat.S_IMODE((authority.folder / f"{name}.key").stat().st_mode) == 0o600


def test_a_kubeconfig_points_at_the_server_the_authority_and_the_users_certificate(
    authority: pki.Authority, tmp_path: Path
) -> None:
    path = tmp_path / "admin.kubeconfig"
    pki.write_kubeconfig(path, server="https://127.0.0.1:1", authority=authority, user="admin", context="here")
    config = json.loads(path.read_text())
    assert config["current-context"] == "here"
    assert config["clusters"][0]["cluster"]["certificate-authority"] == str(authority.path)
    assert config["users"][0]["user"]["client-key"] == str(authority.folder / "admin.key")
