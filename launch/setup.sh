#!/usr/bin/env bash
# Makes .venv and installs Shardtower into it, every package pinned; does nothing when that is already done.
#
#   bash launch/setup.sh [--test]     --test adds what the tests and checks need
#
#   PYTHON                   interpreter of a new .venv, 3.11 or newer (default: python3)
#   SHARDTOWER_BUILD         cpu or cuda (default: cuda where an NVIDIA driver answers)
#   SHARDTOWER_TORCH_INDEX   index with CPU wheels of torch; empty: only what pip is configured with
#
# Runs on Linux: x86_64 and aarch64 for the CPU build, x86_64 for the CUDA build. Packages come from wherever
# pip is configured to find them. torchrec asks for fbgemm-gpu, the CUDA build of fbgemm, whatever the
# machine; so the lists are installed as they stand (--no-deps) and `pip check` proves them complete.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
launch=$root/launch venv=$root/.venv
stamp=$venv/shardtower.stamp log=$venv/setup.log
torch_index=${SHARDTOWER_TORCH_INDEX-https://download.pytorch.org/whl/cpu}

say() { printf 'setup: %s\n' "$*"; }

# The user's input is at fault: one line, exit code 2.
refuse() {
    printf 'setup: %s\n' "$*" >&2
    exit 2
}

# Runs a stage; its output goes to the log, and is shown only where the stage fails.
stage() {
    local name=$1 from=$(($(wc -l <"$log") + 1))
    shift
    if ! "$@" </dev/null >>"$log" 2>&1; then
        printf 'setup: %s failed:\n' "$name" >&2
        tail -n +"$from" "$log" | tail -n 25 | sed 's/^/  /' >&2
        printf 'setup: all of it is in %s; the next call starts afresh\n' "$log" >&2
        exit 1
    fi
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

choose_build() {
    build=${SHARDTOWER_BUILD:-}
    case $build in
        cpu | cuda) ;;
        "") if timeout 20 nvidia-smi -L >/dev/null 2>&1; then build=cuda; else build=cpu; fi ;;
        *) refuse "SHARDTOWER_BUILD is '$build', expected cpu or cuda" ;;
    esac
    case $build-$(uname -s)-$(uname -m) in
        cpu-Linux-* | cuda-Linux-x86_64) ;;
        cuda-Linux-*) refuse "fbgemm has no CUDA wheel for $(uname -m). Set SHARDTOWER_BUILD=cpu" ;;
        *) refuse "fbgemm has wheels for Linux only, and this is $(uname -s). Use a Linux container" ;;
    esac
}

# Without $PYTHON an existing .venv keeps the interpreter that it was made with.
choose_python() {
    python=${PYTHON:-}
    if [[ -z $python && -x $venv/bin/python ]]; then
        python=$("$venv/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null || true)
    fi
    python=${python:-python3}
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) ||
        refuse "'$python' does not run, expected Python 3.11 or newer. Set PYTHON to one"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "'$python' is Python $version, expected 3.11 or newer. Set PYTHON to one"
}

# The stamp marks .venv as ours from its first moment, and is the lock between two set-ups at once.
claim_venv() {
    if [[ -d $venv && ! -e $stamp && -n $(ls -A "$venv") ]]; then
        refuse "$venv was not made by this script. Move it away"
    fi
    mkdir -p "$venv"
    exec 9>>"$stamp" && touch "$log"
    flock -n 9 || { say "another set-up is at work, waiting for it" && flock 9; }
}

is_done() { grep -qxF "$1" "$stamp"; }

# By hand or by another tool, packages may have been changed so that they no longer go together.
is_mixed() {
    local code=0
    PYTHONPATH=$root "$venv/bin/python" - mixed <<'PYTHON' >/dev/null 2>&1 || code=$?
import sys

from trainer.installation import installation_fault

sys.exit(9 if installation_fault() else 0)
PYTHON
    ((code == 9))
}

make_venv() {
    : >"$stamp"
    find "$venv" -mindepth 1 -maxdepth 1 ! -path "$stamp" -exec rm -rf {} +
    : >"$log"
    say "new .venv with Python $version, $build build"
    stage "python -m venv" "$python" -m venv "$venv"
}

# PyPI's torch for Linux is the CUDA build; the CPU build stands in an index of its own, or in a mirror or
# folder that pip is configured with. Dependencies are allowed, so that a CUDA wheel can be imported too where
# there is no other; what is installed stays within the lists.
install_torch_for_cpu() {
    local source=() probe='import sys, urllib.request; urllib.request.urlopen(sys.argv[1])'
    if [[ -n $torch_index ]] && timeout 3 "$python" -c "$probe" "${torch_index%/}/torch/" >/dev/null 2>&1; then
        source=(--extra-index-url "$torch_index")
        say "torch (from $torch_index)"
    else
        say "torch (from pip's own sources${torch_index:+; $torch_index does not answer})"
    fi
    stage "installing torch" pip install "$(grep '^torch==' "$launch/requirements.txt")" \
        -c "$launch/requirements.txt" -c "$launch/requirements-cuda.txt" "${source[@]}"
}

install_list() { stage "installing $1" pip install --no-deps -r "$launch/$1"; }

install_packages() {
    if [[ $build == cpu ]]; then install_torch_for_cpu; fi
    say "packages of requirements.txt, requirements-$build.txt and requirements-extras.txt"
    install_list requirements.txt
    install_list "requirements-$build.txt"
    install_list requirements-extras.txt
}

# The CPU build lacks what torchrec asks for by name, and nothing else; the CUDA build lacks nothing.
check_packages() {
    if [[ $build == cuda ]]; then
        pip check
        return
    fi
    local found
    found=$(pip check)
    [[ $found =~ ^torchrec\ [0-9.]+\ requires\ fbgemm[-_]gpu,\ which\ is\ not\ installed\.$ ]] || { echo "$found" && return 1; }
}

check_imports() {
    "$venv/bin/python" - "$build" <<'PYTHON' >"$venv/versions"
import sys
from importlib.metadata import version

import fbgemm_gpu, torch, torchrec

cuda = torch.version.cuda
if sys.argv[1] == "cuda" and cuda is None:
    sys.exit(f"torch {torch.__version__} has no CUDA: pip's own sources (find-links, extra-index-url) put it before PyPI's")
fbgemm = "fbgemm-gpu-cpu" if sys.argv[1] == "cpu" else "fbgemm-gpu"
print(f"torch {torch.__version__}, torchrec {version('torchrec')}, {fbgemm} {version(fbgemm)}, CUDA {cuda or 'none'}")
PYTHON
}

main() {
    local tests="" packages project
    case $* in
        "") ;;
        --test) tests="test" ;;
        *) refuse "options are '$*', expected none or --test" ;;
    esac
    choose_build
    choose_python
    claim_venv
    packages="packages $( (echo "$root $build $version" && cat "$launch"/requirements*.txt) | sha256sum)"
    project="project $(sha256sum <"$root/pyproject.toml")"
    if is_done test; then tests="test"; fi

    if is_done "$packages" && is_mixed; then
        say "packages of .venv were changed and no longer go together"
        : >"$stamp"
    fi
    if is_done "$packages" && is_done "$project" && { [[ -z $tests ]] || is_done test; }; then
        say "nothing to do: .venv has Python $version, $(cat "$venv/versions")"
        return
    fi
    if ! is_done "$packages"; then
        make_venv
        install_packages
    fi
    if [[ -n $tests ]] && ! is_done test; then
        say "packages of requirements-test.txt"
        install_list requirements-test.txt
    fi
    if ! is_done "$project"; then
        # Without build isolation, which would fetch another setuptools than the pinned one.
        stage "installing shardtower" pip install --no-deps --no-build-isolation -e "$root"
    fi
    say "checks (pip check, imports)"
    stage "pip check" check_packages
    stage "importing torch, torchrec and fbgemm_gpu" check_imports
    printf '%s\n' "$packages" "$project" $tests >"$stamp"
    say "done: $(cat "$venv/versions")"
}

main "$@"
