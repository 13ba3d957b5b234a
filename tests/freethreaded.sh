#!/bin/bash
# usage: tests/freethreaded.sh [--prefix DIR] [PYTEST-ARGUMENT...]
#
# Runs the tests on a CPython 3.13 without the global interpreter lock, which shows races that the lock hides.
# Debian has no package of it, so it is built once from the source package of Debian 13 (trixie), and installed
# in DIR (default: ~/.cache/mcastd/python3.13t, or where XDG_CACHE_HOME says; for root /var/cache/mcastd/python3.13t,
# since tests of root start programs as a user who may not look into /root). What is there is used again.
# On Debian first: apt install build-essential dpkg-dev libffi-dev libssl-dev zlib1g-dev iproute2 socat
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$([[ $(id -u) == 0 ]] && echo /var/cache || echo "$HOME/.cache")
prefix=${XDG_CACHE_HOME:-$cache}/mcastd/python3.13t
case ${1-} in
-h | --help) sed -n '2s/^# //p' "${BASH_SOURCE[0]}"; exit ;;
--prefix) prefix=$(realpath -m "${2:?--prefix takes a directory}"); shift 2 ;;
esac
venv=$repository/.venv-freethreaded
work=
trap '[[ -z $work ]] || rm -rf "$work"' EXIT

say() { echo "freethreaded.sh: $*" >&2; }

# The source package, by an apt configuration of our own: the machine's sources, lists and cache stay as they are.
# Its mirror, proxies and credentials are used: any of its indices of Debian's main archive names the mirror.
fetch_source() {
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 == "Debian" && $3 == "main" && !found++ { print $4 }')
    if [[ -z $mirror ]]; then
        say "apt knows no Debian mirror (or has no lists yet: apt-get update)"
        return 1
    fi
    mkdir -p "$work"/apt/{lists,archives}/partial
    echo "deb-src [signed-by=$keyring] $mirror trixie main" >"$work/apt/sources.list"
    local options=(-q -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt"
        -o "APT::Sandbox::User=$(id -un)" -o "Acquire::Languages=none")
    apt-get "${options[@]}" update
    (cd "$work" && apt-get "${options[@]}" source python3.13)
}

build() {
    local began=$SECONDS
    work=$(mktemp -d)
    fetch_source
    cd "$work"/python3.13-*/
    # Neither profiled nor optimized at link time: minutes instead of an hour
    nice -n 19 ./configure --quiet --prefix="$prefix" --disable-gil --disable-test-modules --with-ensurepip=no
    nice -n 19 make --silent -j "${JOBS:-$(nproc)}"
    nice -n 19 make --silent altinstall >/dev/null
    "$prefix/bin/python3.13t" -c 'import ctypes, ssl, zlib'
    cd "$repository"
    touch "$prefix/complete"
    say "built in $((SECONDS - began)) s"
}

[[ -e $prefix/complete ]] || build

# Not the linters: they check the same sources everywhere.
if [[ ! $venv/installed -nt $repository/pyproject.toml || ! $venv/bin/python -ef $prefix/bin/python3.13t ]]; then
    rm -rf "$venv"
    mkdir -p "$venv/lib/python3.13t"
    ln -s python3.13t "$venv/lib/python3.13" # where Debian's site.py looks for packages, without the t
    "$prefix/bin/python3.13t" -m venv "$venv"
    mapfile -t tools < <("$venv/bin/python" - "$repository/pyproject.toml" <<'PYTHON'
import re, sys, tomllib
with open(sys.argv[1], "rb") as file:
    wanted = tomllib.load(file)["project"]["optional-dependencies"]["dev"]
print(*(tool for tool in wanted if re.match(r"[\w-]+", tool)[0] not in ("mypy", "ruff")), sep="\n")
PYTHON
    )
    # Releases that have a wheel for this Python: the newest of pydantic-core and hypothesis need Rust
    get() { "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$@"; }
    get --editable "$repository"
    for tool in "${tools[@]}"; do
        get "$tool" || say "without $tool, which has no wheel for this Python: tests that need it are skipped"
    done
    touch "$venv/installed"
fi

# An extension that does not say that it can do without the lock turns it on for the whole process, with a warning
unset PYTHON_GIL
locked() {
    "$venv/bin/python" - <<'PYTHON'
import importlib, pkgutil, sys
assert not sys._is_gil_enabled(), "this Python has the lock"
import mcastd
for module in pkgutil.walk_packages(mcastd.__path__, "mcastd."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in ("hypothesis", "pytest", "pytest_timeout", "varlink", "xdist"):
    importlib.import_module(name)
sys.exit(sys._is_gil_enabled())
PYTHON
}
if locked; then
    say "the interpreter lock is off with all libraries imported"
else
    say "an extension turns the interpreter lock on: going on with PYTHON_GIL=0, which keeps it off"
    export PYTHON_GIL=0
    locked
fi

cd "$repository"
"$venv/bin/python" -VV
"$venv/bin/python" -m pytest "$@"
