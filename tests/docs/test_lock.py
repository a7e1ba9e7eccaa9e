"""The hashes that .ci/verify holds an installation to: of all that pyproject.toml asks for, within its bounds."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / ".ci" / "requirements.lock").read_text()
ENTRY = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; .+?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)


def test_every_line_is_an_archive_of_one_version_with_its_hashes():
    rest = ENTRY.sub("", re.sub(r"^#.*$", "", TEXT, flags=re.M))
    assert rest.strip() == "" and len(ENTRY.findall(TEXT)) > 50


def test_what_the_project_asks_for_is_locked_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked: dict[str, list[str]] = {}
    for name, version, _ in ENTRY.findall(TEXT):
        locked.setdefault(name, []).append(version)
    for word in project["dependencies"] + project["optional-dependencies"]["test"]:
        asked = Requirement(word)
        assert locked.get(asked.name), f"{asked.name} is not locked"
        assert all(asked.specifier.contains(Version(version)) for version in locked[asked.name]), word


def test_nobody_s_machine_or_registry_is_named():
    assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links", TEXT)


@pytest.mark.parametrize(("hashed", "code"), [("the lock's", 0), ("another", 1), ("no", 1)])
def test_a_wheel_with_another_hash_is_named(tmp_path, hashed, code):
    (check,) = re.findall(r"<<'PYTHON'\n(.*?)\nPYTHON", (ROOT / ".ci" / "verify").read_text(), re.S)
    found = {"the lock's": re.search(r"sha256:(\w{64})", TEXT)[1], "another": "0" * 64, "no": None}[hashed]
    archive = {"url": "", "archive_info": {"hashes": {"sha256": found}}}
    own = {"url": "", "dir_info": {"editable": True}}
    facts = {"name": "wheel-of-theirs", "version": "1.0"}
    installed = [{"metadata": facts, "download_info": info} for info in (archive, own)]
    (tmp_path / "report.json").write_text(json.dumps({"install": installed}))
    command = [sys.executable, "-c", check, tmp_path / "report.json", ROOT / ".ci" / "requirements.lock"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert ("1 wheels" in done.stdout) if code == 0 else ("wheel-of-theirs 1.0" in done.stderr)
