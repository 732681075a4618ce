"""The release command: what becomes of the changelog and the version."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_file = Path(__file__).resolve().parent.parent / ".ci" / "release.py"


@pytest.fixture(scope="module")
def release():
    if not _file.exists():  # the wheel is tried without the checkout
        pytest.fail(f"{_file} is missing")
    spec = importlib.util.spec_from_file_location("release", _file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHANGELOG = """# Changelog

## [Unreleased]

### Added

- A thing.

## [0.1.0] - 2026-01-01

- The first.
"""


def test_what_is_unreleased_gets_the_version(release):
    text, notes = release.released(CHANGELOG, "0.2.0", "2026-12-01")
    assert notes == "### Added\n\n- A thing.\n"
    assert text == CHANGELOG.replace("## [Unreleased]\n", "## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n")
    assert (
        release.released(text.replace("## [Unreleased]\n", "## [Unreleased]\n\n- More.\n"), "0.3.0", "d")[1]
        == "- More.\n"
    )


@pytest.mark.parametrize(
    ("changelog", "version", "says"),
    [
        (CHANGELOG, "1.0", "three numbers"),
        (CHANGELOG, "0.1.0", "already"),
        (CHANGELOG.replace("### Added\n\n- A thing.\n", ""), "0.2.0", "nothing is unreleased"),
        ("# Changelog\n", "0.2.0", "no heading"),
    ],
)
def test_what_cannot_be_released_is_refused(release, changelog, version, says):
    with pytest.raises(release.ReleaseError, match=says):
        release.released(changelog, version, "2026-12-01")


def test_the_version_is_set_once(release):
    text = 'version = "0.1.0"\nother = "x"\nversion = "y"\n'
    assert release.versioned(text, "0.2.0") == 'version = "0.2.0"\nother = "x"\nversion = "y"\n'
