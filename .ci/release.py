"""Prepare a release: ``make release VERSION=1.2.0``.

Moves what is unreleased in CHANGELOG.md under the version, sets the version in pyproject.toml, builds the
wheel and the source archive, tries the wheel, and writes the notes to ``build/release/notes.md``.  What is
left to a person: to read them, to commit, to tag and to upload; the last lines say how.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNRELEASED = "## [Unreleased]"


class ReleaseError(Exception):
    """What keeps a release from being made."""


def released(changelog: str, version: str, day: str) -> tuple[str, str]:
    """The changelog with what is unreleased under a version, and that part alone.

    Raises
    ------
    ReleaseError
        If the version is none, is there already, or nothing is unreleased.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ReleaseError(f"{version!r} is no version; give three numbers, such as 1.2.0")
    if f"## [{version}]" in changelog:
        raise ReleaseError(f"CHANGELOG.md has {version} already")
    before, heading, rest = changelog.partition(UNRELEASED)
    if not heading:
        raise ReleaseError(f"CHANGELOG.md has no heading {UNRELEASED!r}")
    following = re.search(r"^## ", rest, re.MULTILINE)
    end = following.start() if following else len(rest)
    notes = rest[:end].strip()
    if not notes:
        raise ReleaseError("nothing is unreleased in CHANGELOG.md")
    new = f"{before}{UNRELEASED}\n\n## [{version}] - {day}\n\n{notes}\n\n{rest[end:]}"
    return new.rstrip() + "\n", notes + "\n"


def versioned(pyproject: str, version: str) -> str:
    """The text of pyproject.toml with another version."""
    return re.sub(r'^version = "[^"]*"$', f'version = "{version}"', pyproject, count=1, flags=re.MULTILINE)


def main(version: str) -> None:
    """Prepare a release in the checkout."""
    if run("git", "status", "--porcelain", "--untracked-files=no").strip():
        raise ReleaseError("the checkout has changes; commit or stash them")
    changelog, pyproject = ROOT / "CHANGELOG.md", ROOT / "pyproject.toml"
    text, notes = released(changelog.read_text("utf-8"), version, date.today().isoformat())
    changelog.write_text(text, "utf-8")
    pyproject.write_text(versioned(pyproject.read_text("utf-8"), version), "utf-8")
    folder = ROOT / "build" / "release"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    run("bash", ".ci/packaging", sys.executable)
    (folder / "notes.md").write_text(notes, "utf-8")
    print("build/release has the wheel, the source archive and notes.md. Read them, then:\n")
    print(f"  git commit -am 'Release {version}' && git tag v{version} && git push --follow-tags")
    print("  python -m twine upload build/release/*.whl build/release/*.tar.gz")


def run(*command: str) -> str:
    """Run a command in the checkout; its output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2] or [""])
    except ReleaseError as error:
        sys.exit(str(error))
