"""What the host must have for a local cluster. A missing thing is named with the line that installs it.

`python3 -m e2e.harness.prerequisites` prints the missing Debian packages, with `--go` the path of a new enough Go.
It needs no virtual environment.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from e2e.harness import paths, tools
from e2e.harness.errors import MissingPrerequisiteError

CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
DISK_GB = 12  # two images, their unpacked copies, Go's build cache
MEMORY_GB = 4


@dataclass(frozen=True)
class Requirement:
    """A program and the Debian package that holds it."""

    program: str
    package: str


PROGRAMS = (
    Requirement("containerd", "containerd"),
    Requirement("ctr", "containerd"),
    Requirement("runc", "runc"),
    Requirement("ip", "iproute2"),
    Requirement("iptables", "iptables"),
    Requirement("conntrack", "conntrack"),
    Requirement("mount", "mount"),
    Requirement("nsenter", "util-linux"),
    Requirement("unshare", "util-linux"),
    Requirement("sysctl", "procps"),
    Requirement("curl", "curl"),
    Requirement("mmdebstrap", "mmdebstrap"),
)


def check() -> None:
    """Say at once everything that is missing.

    Raises:
        MissingPrerequisiteError: with the reasons and one install line.
    """
    packages = missing_packages()
    problems = [f"missing: {', '.join(packages)}\n    apt-get install --yes {' '.join(packages)}"] if packages else []
    problems += _privilege() + _space()
    try:
        tools.go()
    except MissingPrerequisiteError as error:
        if not tools.all_built():
            problems.append(str(error))
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise MissingPrerequisiteError(f"A local cluster cannot be made on this machine yet:\n{listed}")


def missing_packages() -> list[str]:
    """Debian packages to install, in the order of need, each once."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    lacking = [each.package for each in PROGRAMS if not shutil.which(each.program, path=search)]
    if cni_folder() is None:
        lacking.append("containernetworking-plugins")
    return list(dict.fromkeys(lacking))


def cni_folder() -> Path | None:
    """Where the CNI plugins are installed."""
    return next((Path(folder) for folder in CNI_FOLDERS if Path(folder, "bridge").exists()), None)


def _privilege() -> list[str]:
    if os.geteuid() == 0:
        return []
    return ["root is needed for containers and network namespaces: use sudo, or --backend kind with Docker"]


def _space() -> list[str]:
    folder = paths.cache()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    problems = []
    if free < DISK_GB:
        problems.append(f"{free:.0f} GB are free under {folder}, {DISK_GB} GB are needed: set WENXIN_CACHE elsewhere")
    if memory < MEMORY_GB:
        problems.append(f"the machine has {memory:.0f} GB of memory, {MEMORY_GB} GB are needed")
    return problems


def main(arguments: list[str]) -> None:
    """Print what a script that prepares a machine wants to know."""
    if arguments == ["--go"]:
        try:
            print(tools.go())
        except MissingPrerequisiteError as error:
            sys.exit(str(error))
    else:
        for package in missing_packages():
            print(package)


if __name__ == "__main__":
    main(sys.argv[1:])
