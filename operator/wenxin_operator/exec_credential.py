"""A token from a program that a kubeconfig names, as the clouds' own kubeconfigs do.

The protocol is client.authentication.k8s.io: the program prints an ExecCredential
(https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins).
"""

import datetime as dt
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from wenxin_operator.errors import ConfigurationError

_EARLY = dt.timedelta(seconds=30)  # a token that expires on its way is none
_LONG_AGO, _NEVER = (dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in (1, 9999))
_SECONDS = 60.0  # a person may have to log in


class ExecToken:
    """The bearer token that the program prints, kept until shortly before it expires.

    Args:
        where: What names the program, for errors.
        plugin: users[].user.exec of the kubeconfig.
    """

    def __init__(self, where: str, plugin: Mapping[str, Any]) -> None:
        self._where, self._plugin = where, plugin
        self._value, self._expires = "", _LONG_AGO

    def __call__(self, *, fresh: bool = False) -> str:
        """The token; `fresh` runs the program whatever the token's age.

        Raises:
            ConfigurationError: the program is missing, fails, or prints no token.
        """
        if fresh or dt.datetime.now(dt.UTC) + _EARLY >= self._expires:
            self._value, self._expires = self._read(self._run())
        return self._value

    def _run(self) -> str:
        command = [str(self._plugin["command"]), *map(str, self._plugin.get("args") or ())]
        info = {
            "apiVersion": self._plugin.get("apiVersion", ""),
            "kind": "ExecCredential",
            "spec": {"interactive": False},
        }
        given = {one["name"]: str(one["value"]) for one in self._plugin.get("env") or ()}
        environment = {**os.environ, **given, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            done = subprocess.run(  # noqa: S603 - the user's own kubeconfig names it, as for kubectl
                command, env=environment, stdout=subprocess.PIPE, text=True, timeout=_SECONDS, check=True
            )
        except FileNotFoundError:
            hint = self._plugin.get("installHint") or "install it"
            raise ConfigurationError(f"{self._where}: {command[0]} is not there; {hint}") from None
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigurationError(f"{self._where}: {error}") from None
        return done.stdout

    def _read(self, printed: str) -> tuple[str, dt.datetime]:
        try:
            status = json.loads(printed)["status"]
            expires = status.get("expirationTimestamp")
            until = dt.datetime.fromisoformat(expires) if expires else _NEVER
            return str(status["token"]), until
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigurationError(
                f"{self._where}: {self._plugin['command']} printed no ExecCredential with a token"
            ) from None
