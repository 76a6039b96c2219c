import re
import subprocess
from pathlib import Path

import pytest
import yaml

from docs.readme import READMES, REPOSITORY, cluster_blocks, make_targets

WORKFLOW = REPOSITORY / ".github" / "workflows" / "ci.yml"
PAGES = sorted(
    path
    for path in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")


def targets_in_ci() -> set[str]:
    """What the workflow runs, but for the packages of the system that a target needs."""
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    return {run.removeprefix("make ") for run in runs if "apt-get install" not in run}


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_every_make_target_that_a_readme_names_runs_in_ci(page: Path) -> None:
    assert make_targets(page) <= targets_in_ci()


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    assert make_targets(REPOSITORY / page) <= targets_of_make()


def test_the_workflow_runs_nothing_but_make_targets() -> None:
    assert targets_in_ci() <= targets_of_make()


def test_the_workflow_tests_every_python_that_the_project_supports() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    classifiers = re.findall(r"Python :: (3\.\d+)", (REPOSITORY / "pyproject.toml").read_text())
    assert jobs["test"]["strategy"]["matrix"]["python"] == classifiers


def test_both_readmes_show_the_same_commands_and_links() -> None:
    english, chinese = READMES
    assert cluster_blocks(english) == cluster_blocks(chinese)
    assert make_targets(english) == make_targets(chinese)
    links = [set(LINK.findall(page.read_text())) - {readme.name for readme in READMES} for page in READMES]
    assert links[0] == links[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_between_pages_leads_somewhere(page: str) -> None:
    path = REPOSITORY / page
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_module_on_the_map_exists() -> None:
    named = re.findall(r"`([\w./-]+(?:\.py|/))`", (REPOSITORY / "docs" / "ARCHITECTURE.md").read_text())
    roots = [REPOSITORY, REPOSITORY / "operator" / "wenxin_operator", REPOSITORY / "runtime" / "wenxin_runtime"]
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_every_decision_is_listed() -> None:
    folder = REPOSITORY / "docs" / "adr"
    pages = {page.name for page in folder.glob("0*.md")}
    assert set(LINK.findall((folder / "README.md").read_text())) == pages
