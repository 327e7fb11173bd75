"""What the repository holds: complete locks, no machine's paths, a clone of bounded size."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ("generator", "verifier", "downloader", "training")
MOST_BYTES = 66_500_000


LOCKS = [f"{name}/requirements.lock" for name in ENVIRONMENTS]
EXTRAS = ["generator/ray.lock", "verifier/ray.lock"]


def pins_of(lock: str) -> dict[str, str]:
    lines = (ROOT / "envs" / lock).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.lstrip().startswith("#"))


@pytest.mark.parametrize("lock", [*LOCKS, *EXTRAS])
def test_locks_name_versions_and_no_index(lock: str) -> None:
    lines = (ROOT / "envs" / lock).read_text().splitlines()
    pins = [line for line in lines if not line.lstrip().startswith("#")]
    odd = [line for line in pins if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line)]
    assert pins
    assert odd == []
    assert not any("://" in line for line in lines)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_locks_hold_what_the_requirements_ask_for(name: str) -> None:
    locked = pins_of(f"{name}/requirements.lock")
    for line in (ROOT / "envs" / name / "requirements.in").read_text().splitlines():
        requirement = line.split("#")[0].strip()
        if not requirement:
            continue
        package, _, version = requirement.partition("==")
        package = re.split(r"[<>=]", package)[0].lower().replace("_", "-")
        assert package in locked, f"make lock: {package} is not in the lock"
        assert version in ("", locked[package]), f"make lock: {package}"


@pytest.mark.parametrize("lock", EXTRAS)
def test_an_extra_changes_no_version_and_is_of_one_ray(lock: str) -> None:
    base, extra = pins_of(lock.replace("ray", "requirements")), pins_of(lock)
    assert {**base, **extra} == {**extra, **base}
    assert f"ray=={extra['ray']}" in (ROOT / "envs" / "ray.in").read_text().splitlines()


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_tracked_files_name_no_path_of_a_machine() -> None:
    personal = re.compile(rb"(?<![\w.])/(?:root|work|home/\w+|Users/\w+)/")
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in tracked_files()
        if path != Path(__file__)
        and b"\0" not in (data := path.read_bytes())
        and (match := personal.search(data))
    ]
    assert found == []


def test_tracked_files_are_under_66_and_a_half_mb_in_all() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked_files()}
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    assert sum(sizes.values()) <= MOST_BYTES, f"the largest: {', '.join(largest)}"
