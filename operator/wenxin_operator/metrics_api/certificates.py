"""The authority that the API server trusts for our metrics API, and the certificate that it has issued.

All copies serve the same one from a Secret. A certificate is renewed when a third of its life is left. So is the
authority; the old one stays trusted until it expires, and goes on being served until the next certificate is due, so
that at no time somebody serves what somebody else does not trust yet.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=5 * 365)
CERTIFICATE_LIFE = timedelta(days=90)
SKEW = timedelta(hours=1)
"""How far another machine's clock may be behind ours."""

_CURVE = ec.SECP256R1()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is served and what is trusted; all PEM.

    Attributes:
        authorities: Trusted ones, the newest first.
        authority_key: Of the newest.
        certificate: What is served.
        key: Of that.
    """

    authorities: tuple[bytes, ...]
    authority_key: bytes
    certificate: bytes
    key: bytes

    @property
    def bundle(self) -> bytes:
        """What the API server is to trust."""
        return b"".join(self.authorities)

    def data(self) -> dict[str, str]:
        """As a Secret's data."""
        fields = {
            "ca.crt": self.bundle,
            "ca.key": self.authority_key,
            "tls.crt": self.certificate,
            "tls.key": self.key,
        }
        return {name: base64.b64encode(value).decode() for name, value in fields.items()}

    @classmethod
    def from_data(cls, data: Mapping[str, str] | None) -> Self | None:
        """Read what `data` wrote; None where it is not there, or not whole."""
        try:
            names = ("ca.crt", "ca.key", "tls.crt", "tls.key")
            bundle, authority_key, certificate, key = (base64.b64decode((data or {})[name]) for name in names)
            authorities = tuple(_pem(each) for each in x509.load_pem_x509_certificates(bundle))
            x509.load_pem_x509_certificate(certificate)
            _load_key(authority_key), _load_key(key)
        except (KeyError, ValueError, TypeError, binascii.Error):
            return None
        return cls(authorities, authority_key, certificate, key)


def renewed(held: Credentials | None, host: str, now: datetime) -> Credentials:
    """What should be held: the same object while nothing is due.

    Args:
        held: What is.
        host: The name that the API server asks for.
        now: The time.
    """
    if held is None or not _trusted(held, now):
        authority, authority_key = _authority(now)
        return _with_certificate(Credentials((authority,), authority_key, b"", b""), host, now)
    if _due(held.authorities[0], now):
        authority, authority_key = _authority(now)
        trusted = tuple(each for each in held.authorities if _load(each).not_valid_after_utc > now)
        return replace(held, authorities=(authority, *trusted), authority_key=authority_key)
    if _due(held.certificate, now) or not _suits(held.certificate, host):
        return _with_certificate(held, host, now)
    return held


def _trusted(held: Credentials, now: datetime) -> bool:
    """Whether what is served stems from what is trusted, and the newest of that is still good."""
    certificate = _load(held.certificate)
    return _load(held.authorities[0]).not_valid_after_utc > now and any(
        _issued(certificate, _load(each)) for each in held.authorities
    )


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _due(pem: bytes, now: datetime) -> bool:
    certificate = _load(pem)
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_after_utc - life / 3


def _suits(pem: bytes, host: str) -> bool:
    names = _load(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return host in names.get_values_for_type(x509.DNSName)


def _authority(now: datetime) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(_CURVE)
    # Each has a name of its own: where several are trusted, the name says which one has issued a certificate.
    name = _name(f"wenxin-operator metrics API {now:%Y-%m-%dT%H:%M:%SZ}")
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _dump(key)


def _with_certificate(held: Credentials, host: str, now: datetime) -> Credentials:
    authority, authority_key = _load(held.authorities[0]), _load_key(held.authority_key)
    key = ec.generate_private_key(_CURVE)
    certificate = (
        _builder(_name("wenxin-operator"), authority.subject, key.public_key(), now, CERTIFICATE_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return replace(held, certificate=_pem(certificate), key=_dump(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _load(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not one of our keys")
    return key


def _dump(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
