"""Finds and undoes the mounts below a folder."""

import subprocess
from pathlib import Path


def below(folder: Path) -> list[Path]:
    """Mount points in the folder, the newest first, so that each can be unmounted in turn."""
    prefix = f"{folder}/"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [_unescape(line.split()[4]) for line in lines]
    return [Path(point) for point in reversed(points) if point.startswith(prefix)]


def undo_below(folder: Path) -> None:
    """Unmount everything in the folder; what is busy is detached and freed by the kernel later. Safe to repeat."""
    for point in below(folder):
        if subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "--lazy", str(point)], capture_output=True, check=False)


def _unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash as octal escapes."""
    for octal, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, plain)
    return text
