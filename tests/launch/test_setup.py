"""The pinned lists against pyproject.toml; the launch scripts with a Python that only notes its orders."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LISTS = ("requirements", "requirements-cpu", "requirements-cuda", "requirements-extras", "requirements-test")


def pins(name: str) -> dict[str, str]:
    """Package to version, of one list."""
    lines = (ROOT / "launch" / f"{name}.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in requirements}


def build(name: str) -> dict[str, str]:
    return pins("requirements") | pins(f"requirements-{name}") | pins("requirements-extras")


def declared(extra: str | None = None) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", LISTS)
def test_every_line_of_a_list_is_one_exact_version(name: str) -> None:
    text = (ROOT / "launch" / f"{name}.txt").read_text()
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line


def test_no_package_stands_in_two_lists_that_are_installed_together() -> None:
    for name in ("cpu", "cuda"):
        others = ("requirements", f"requirements-{name}", "requirements-extras", "requirements-test")
        lists = [set(pins(each)) for each in others]
        assert sum(map(len, lists)) == len(set.union(*lists))


def test_each_build_has_its_own_fbgemm_and_never_the_other() -> None:
    assert {"fbgemm-gpu-cpu"} == {name for name in build("cpu") if name.startswith("fbgemm")}
    assert {"fbgemm-gpu"} == {name for name in build("cuda") if name.startswith("fbgemm")}
    assert build("cpu")["fbgemm-gpu-cpu"] == build("cuda")["fbgemm-gpu"]


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_lists_hold_every_declared_dependency_in_its_range(name: str) -> None:
    held = build(name)
    wanted = ("train", "light", "towers", "export", "serve", "report")
    for requirement in declared() + [each for extra in wanted for each in declared(extra)]:
        assert requirement.specifier.contains(held[canonicalize_name(requirement.name)]), requirement
    held |= pins("requirements-test")
    for requirement in declared("test") + declared("mlflow") + declared("wandb"):
        assert requirement.specifier.contains(held[canonicalize_name(requirement.name)]), requirement


FAKE_PYTHON = """#!/usr/bin/env bash
# Stands for python and for .venv/bin/python: notes every pip install, makes an empty .venv, imports all.
case "$*" in
    *"version_info[:3]"*) echo 3.11.7 ;;
    *"version_info < "* | *urllib*) ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*" check") echo "$CHECK" && [[ $CHECK == "$SOUND" ]] ;;
    "-m pip "*" install "*)
        echo "$*" >>"$NOTES"
        if [[ -n $FAILS && $* == *"$FAILS"* ]]; then echo "no such wheel" && exit 1; fi ;;
    "- mixed") if [[ -n $MIXED ]]; then exit 9; fi ;;
    "- "*) echo "torch 2.13.0" ;;
    *) exit 3 ;;
esac
"""
TORCH = f"torch=={pins('requirements')['torch']}"
SOUND = "No broken requirements found."
EXPECTED = "torchrec 1.8.0 requires fbgemm-gpu, which is not installed."


class Checkout:
    """A copy of what set-up reads, and the pip commands that it gave."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.venv = self.root / ".venv"
        self.notes = folder / "notes"
        self.fake = folder / "python"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.fake.write_text(FAKE_PYTHON)
        self.fake.chmod(0o755)

    def run(self, script: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.notes.write_text("")
        usual = {"PYTHON": str(self.fake), "SHARDTOWER_BUILD": "cpu", "SHARDTOWER_TORCH_INDEX": ""}
        told = {"NOTES": str(self.notes), "FAILS": "", "SOUND": SOUND, "CHECK": EXPECTED, "MIXED": ""}
        return subprocess.run(
            ["bash", str(self.root / "launch" / script), *options],
            env=os.environ | usual | told | environment,
            capture_output=True,
            text=True,
        )

    def set_up(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("setup.sh", *options, **environment)

    def installed(self) -> list[str]:
        """What the pip commands installed: list files, torch by version, or `.` for the project."""
        names = []
        for line in self.notes.read_text().splitlines():
            words = line.split(" install ")[1].split()
            if words[0].startswith("torch=="):
                names.append(words[0])
            else:
                names.append("." if words[-2] == "-e" else Path(words[-1]).name)
        return names


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


CPU_INSTALL = [TORCH, "requirements.txt", "requirements-cpu.txt", "requirements-extras.txt", "."]


def test_the_cpu_build_installs_its_lists_and_then_nothing_more(checkout: Checkout) -> None:
    first = checkout.set_up()
    assert first.returncode == 0, first.stderr
    assert checkout.installed() == CPU_INSTALL
    second = checkout.set_up()
    assert (second.returncode, checkout.installed()) == (0, [])
    assert "nothing to do" in second.stdout


def test_lists_are_installed_as_they_stand(checkout: Checkout) -> None:
    checkout.set_up("--test")
    for line in checkout.notes.read_text().splitlines():
        assert "--no-deps" in line or f" install {TORCH} -c " in line


def test_the_index_of_cpu_wheels_is_one_source_more_for_torch_only(checkout: Checkout) -> None:
    checkout.set_up(SHARDTOWER_TORCH_INDEX="https://example.org/whl/cpu")
    torch, *others = checkout.notes.read_text().splitlines()
    assert torch.endswith("--extra-index-url https://example.org/whl/cpu")
    assert not any("index-url" in line for line in others)


def test_the_cuda_build_takes_torch_from_its_lists_and_lacks_nothing(checkout: Checkout) -> None:
    assert checkout.set_up(SHARDTOWER_BUILD="cuda", CHECK=SOUND).returncode == 0
    assert checkout.installed() == [
        "requirements.txt",
        "requirements-cuda.txt",
        "requirements-extras.txt",
        ".",
    ]
    checkout.set_up()  # the CPU build, to start from an empty .venv once more
    assert checkout.set_up(SHARDTOWER_BUILD="cuda", CHECK=EXPECTED).returncode == 1


def test_the_test_list_is_added_to_what_is_there_and_then_kept(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.set_up("--test")
    assert checkout.installed() == ["requirements-test.txt"]
    checkout.set_up()
    assert checkout.installed() == []
    with (checkout.root / "launch" / "requirements.txt").open("a") as file:
        file.write("a-new-package==1.0\n")
    checkout.set_up()
    assert checkout.installed() == [*CPU_INSTALL[:-1], "requirements-test.txt", "."]


def test_another_build_starts_from_an_empty_venv(checkout: Checkout) -> None:
    checkout.set_up()
    (checkout.venv / "left_over").touch()
    checkout.set_up(SHARDTOWER_BUILD="cuda")
    assert not (checkout.venv / "left_over").exists()


def test_packages_that_no_longer_go_together_are_installed_anew(checkout: Checkout) -> None:
    checkout.set_up("--test")
    result = checkout.set_up(MIXED="yes")
    assert "packages of .venv were changed and no longer go together" in result.stdout
    assert checkout.installed() == [*CPU_INSTALL[:-1], "requirements-test.txt", "."]
    assert "nothing to do" in checkout.set_up().stdout


def test_an_interrupted_set_up_is_made_good_by_the_next(checkout: Checkout) -> None:
    failed = checkout.set_up(FAILS="requirements-cpu.txt")
    assert failed.returncode == 1
    assert "installing requirements-cpu.txt failed:\n  no such wheel\n" in failed.stderr
    assert checkout.set_up().returncode == 0
    assert checkout.installed() == CPU_INSTALL


@pytest.mark.parametrize(
    "complaint",
    [
        "pandas 3.1.1 requires tzdata, which is not installed.",
        f"{EXPECTED}\npandas 3.1.1 requires tzdata, which is not installed.",
        SOUND,  # fbgemm-gpu stands beside fbgemm-gpu-cpu
    ],
)
def test_any_other_word_of_pip_check_fails(checkout: Checkout, complaint: str) -> None:
    result = checkout.set_up(CHECK=complaint)
    assert result.returncode == 1
    assert all(f"  {line}\n" in result.stderr for line in complaint.splitlines())
    assert "nothing to do" not in checkout.set_up().stdout


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SHARDTOWER_BUILD": "tpu"}, "SHARDTOWER_BUILD is 'tpu', expected cpu or cuda"),
        ({"PYTHON": "no-such-python"}, "'no-such-python' does not run, expected Python 3.11 or newer"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    checkout: Checkout, environment: dict[str, str], words: str
) -> None:
    result = checkout.set_up(**environment)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not checkout.venv.exists()


def test_an_old_python_is_refused_by_its_version(checkout: Checkout) -> None:
    checkout.fake.write_text("#!/usr/bin/env bash\nif [[ $* == *'<'* ]]; then exit 1; else echo 3.9.18; fi\n")
    result = checkout.set_up()
    assert result.returncode == 2
    assert "is Python 3.9.18, expected 3.11 or newer. Set PYTHON to one\n" in result.stderr


def test_a_venv_of_someone_else_is_left_alone(checkout: Checkout) -> None:
    (checkout.venv / "lib").mkdir(parents=True)
    result = checkout.set_up()
    assert result.returncode == 2
    assert "was not made by this script. Move it away" in result.stderr
    assert [path.name for path in checkout.venv.iterdir()] == ["lib"]


def test_a_number_of_ranks_that_is_none_is_refused_before_training(checkout: Checkout) -> None:
    checkout.set_up()
    (checkout.venv / "bin" / "python").write_text("#!/usr/bin/env bash\n")
    result = checkout.run("train.sh", SHARDTOWER_RANKS="two")
    assert result.returncode == 2
    assert result.stderr == "train: SHARDTOWER_RANKS is 'two', expected a number from 1\n"


def test_a_misspelt_option_starts_no_rank(checkout: Checkout) -> None:
    checkout.set_up()
    python = checkout.venv / "bin" / "python"
    python.write_text("#!/usr/bin/env bash\necho 'error: --modle.dim: no such option' >&2; exit 2\n")
    result = checkout.run("train.sh", "--modle.dim", "64")
    assert (result.returncode, result.stderr) == (2, "error: --modle.dim: no such option\n")
    assert "ranks.py" not in result.stdout
    python.write_text('#!/usr/bin/env bash\necho "$@"\n')
    launch = "launch/ranks.py --standalone --nproc_per_node=4 --max-restarts=0 -m trainer train"
    assert launch in checkout.run("train.sh").stdout


MADE = {
    ".venv/": "launch/setup.sh",
    "*.egg-info/": "launch/setup.sh",
    "__pycache__/": "Python",
    ".pytest_cache/": "launch/test.sh",
    ".ruff_cache/": ".ci/run",
    "/data/": "python -m trainer prepare",
    "/runs/": "python -m trainer train",
}
"""What the documented commands leave in a checkout."""


def test_git_ignores_what_the_documented_commands_make_and_nothing_else() -> None:
    assert sorted((ROOT / ".gitignore").read_text().splitlines()) == sorted(MADE)
