"""The commands that the READMEs show, so that tests can hold them true: a command in a README is one that we run.

A fenced `bash` block is either for a machine (make targets, run by the CI workflow) or for the demo's cluster
(run by a story, as it stands).
"""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
READMES = (REPOSITORY / "README.md", REPOSITORY / "README.zh-CN.md")

_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MAKE = re.compile(r"(?:^|`)make ([a-z0-9-]+)", re.MULTILINE)


def make_targets(page: Path) -> set[str]:
    """Make targets that a page names, in blocks or in running text."""
    return set(_MAKE.findall(page.read_text()))


def cluster_blocks(page: Path) -> list[str]:
    """Blocks of a page that are meant for the demo's cluster."""
    return [block for block in _blocks(page) if not block.startswith("make ")]


def _blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text())
