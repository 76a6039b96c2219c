"""The flags of `wenxin-runtime download`; a flag's default is the field's default."""

import argparse
import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wenxin_runtime.errors import ConfigError
from wenxin_runtime.flags import add_field_flags, flag, flag_of

SCHEMES = ("hf", "modelscope", "https", "http", "s3")
_POSITIONAL = ("source", "directory")
_SMALLEST_CHUNK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOptions:
    """What to fetch, where to, and how patiently."""

    source: str
    directory: Path
    revision: str | None = flag(
        None, "branch, tag or commit of hf:// and modelscope:// (default: main on the one, master on the other)"
    )
    mirror: str | None = flag(
        None, "URL to speak to instead of the hub's own, or of AWS_ENDPOINT_URL (default: HF_ENDPOINT or the hub)"
    )
    checksums: str | None = flag(
        None, "file with SHA-256 of all files, as sha256sum writes it (default: the digests that the source tells)"
    )
    connections: int = flag(8, "requests at the same time, over all files")
    chunk_bytes: int = flag(16 * 2**20, "size of one request; what a kill loses is at most one per connection")
    attempts: int = flag(8, "tries of one request without progress before the download fails")
    retry_delay: float = flag(1.0, "seconds before the second try; doubled for each further one, up to 30")
    stall_timeout: float = flag(30.0, "seconds with less than 1 KiB/s after which a request is tried again")
    s3_addressing: str = flag(
        "auto",
        "where the bucket's name goes: path (MinIO), virtual host (OSS, OBS), or auto: path where an endpoint is set",
        choices=("auto", "path", "virtual"),
    )
    allow_http_redirects: bool = flag(
        False, "follow redirects from https to plain http", action=argparse.BooleanOptionalAction
    )
    host: str = flag("127.0.0.1", "address for --port; 0.0.0.0 in a pod")
    port: int | None = flag(None, "port that answers GET /load with the progress; 0 picks a free one (default: none)")
    log_level: str = flag("info", "log level", choices=("debug", "info", "warning", "error"))

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: names the flag.
        """
        self._check_source()
        if self.directory.name in ("", ".", "..") or os.path.ismount(self.directory):
            raise ConfigError(
                f"DIRECTORY {self.directory} must be a directory inside a volume, not its root: "
                "it is renamed into place; for example /models/NAME"
            )
        for name, least in (("connections", 1), ("attempts", 1), ("chunk_bytes", _SMALLEST_CHUNK)):
            if getattr(self, name) < least:
                raise ConfigError(f"{flag_of(name)} must be at least {least}, got {getattr(self, name)}")
        for name in ("retry_delay", "stall_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{flag_of(name)} must be more than 0 seconds, got {getattr(self, name)}")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must lie between 0 and 65535, got {self.port}")

    @property
    def scheme(self) -> str:
        """What SOURCE begins with, one of `SCHEMES`."""
        return self.source.partition("://")[0]

    def _check_source(self) -> None:
        try:
            parts = urlsplit(self.source)
        except ValueError as error:
            raise ConfigError(f"SOURCE {self.source!r} is no URL: {error}") from error
        scheme = self.scheme
        if scheme not in SCHEMES:
            raise ConfigError(
                f"SOURCE must begin with {', '.join(f'{name}://' for name in SCHEMES)}; got {self.source!r}"
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError("SOURCE must hold no password and no query: give credentials as variables, see --help")
        if self.revision is not None and scheme not in ("hf", "modelscope"):
            raise ConfigError(f"--revision is for hf:// and modelscope://; {scheme}:// has none")
        if self.mirror is not None:
            if scheme in ("https", "http"):
                raise ConfigError(f"--mirror is for hf://, modelscope:// and s3://; give the mirror's {scheme}:// URL")
            if not self.mirror.startswith(("https://", "http://")):
                raise ConfigError("--mirror must be an https:// or http:// URL")
            if "@" in self.mirror or "?" in self.mirror or "#" in self.mirror:
                raise ConfigError("--mirror must hold no password and no query: every list of processes shows it")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` SOURCE, DIRECTORY and one flag per field of DownloadOptions."""
    parser.add_argument("source", metavar="SOURCE", help="hf://ORG/NAME, modelscope://ORG/NAME, https://…/ or s3://…")
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="where the checkpoint appears when complete")
    add_field_flags(parser, DownloadOptions, leave_out=_POSITIONAL)


def from_args(args: argparse.Namespace) -> DownloadOptions:
    """Build the options from parsed flags.

    Raises:
        ConfigError: a value makes no sense.
    """
    values: dict[str, Any] = {spec.name: getattr(args, spec.name) for spec in dataclasses.fields(DownloadOptions)}
    return DownloadOptions(**values | {"source": args.source.rstrip("/")})
