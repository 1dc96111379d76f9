#!/usr/bin/env bash
# Everything that the other targets need: Debian packages, the Python environment, the witness guest; with "browser" among
# its arguments also what the tests of the console need, with "docs" what builds the documents (build/docs, on its own).
# May be repeated: it says only what it installs, and is quick when nothing is missing. Details: build/setup.log.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$root"
mkdir -p build
log=$root/build/setup.log
policy=/usr/sbin/policy-rc.d
policy_is_ours=
exec 9>build/setup.lock
flock 9

packages_browser=(chromium fonts-noto-cjk)
packages_always=(btrfs-progs ca-certificates cpio fish gcc libc6-dev make pkg-config postgresql xfsprogs xz-utils zsh)
packages_virtual=(libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu libvirt-dev qemu-system-x86 qemu-utils)
packages_wanted=()
qemu_floor=9.0     # the first with mapped-ram, which memory snapshots are made of
libvirt_floor=9.9
uv_version=0.13.9

say() { printf 'setup: %s\n' "$*"; }

die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# run WHAT COMMAND...: the command's output goes to the log, and is shown when it fails.
run() {
  local what=$1 from
  shift
  from=$(stat -c %s "$log" 2>/dev/null || echo 0)
  printf '\n== %s: %s\n' "$(date -u +%FT%TZ)" "$*" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null && return 0
  tail -c "+$((from + 1))" "$log" | tail -n 25 >&2
  die "could not $what; the whole story is in build/setup.log"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "needs root or sudo for: $*"
  fi
}

# --- Debian packages ---------------------------------------------------------------------------------------------

# Services are not started by their packages: policy-rc.d answers 101, "not allowed", while we install.
forbid_service_starts() {
  [ ! -e "$policy" ] || return 0
  policy_is_ours=yes
  # shellcheck disable=SC2016 # expanded by the inner shell
  as_root sh -c 'printf "#!/bin/sh\nexit 101\n" >"$0" && chmod 755 "$0"' "$policy"
}

allow_service_starts() {
  [ -n "$policy_is_ours" ] || return 0
  policy_is_ours=
  as_root rm -f -- "$policy"
}
trap allow_service_starts EXIT

apt() { as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -o DPkg::Lock::Timeout=300 "$@"; }

apt_update() {
  local try
  for try in 1 2 3; do
    printf '\n== apt-get update, try %s\n' "$try" >>"$log"
    apt update -q -o Acquire::Retries=3 >>"$log" 2>&1 </dev/null && return 0
    sleep "$try"
  done
  tail -n 15 "$log" >&2
  die "apt-get update failed three times; the whole story is in build/setup.log"
}

apt_install() {
  run "install $*" apt install -qy --no-install-recommends -o Dpkg::Options::=--force-confold "$@"
}

installed_version() { # of a package, or nothing
  dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^installed //p'
}

candidate_version() { LC_ALL=C apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'; }

is_below() { # is_below VERSION FLOOR: the epoch does not count, a missing version is below everything
  [ -z "$1" ] || [ "$1" = "(none)" ] || dpkg --compare-versions "${1#*:}" lt "$2"
}

floor_of() { # the version below which a package of packages_virtual is too old
  case $1 in
    qemu-*) echo "$qemu_floor" ;;
    *) echo "$libvirt_floor" ;;
  esac
}

are_below_floor() { # are_below_floor candidate|installed: is any of packages_virtual?
  local package
  for package in "${packages_virtual[@]}"; do
    if is_below "$("$1_version" "$package")" "$(floor_of "$package")"; then return 0; fi
  done
  return 1
}

missing_of() { # those of the packages that are not installed
  local package
  for package in "$@"; do
    [[ $installed == *" $package "* ]] || printf '%s\n' "$package"
  done
}

os_release() { sed -n "s/^$1=//p" /etc/os-release | tr -d '"'; }

signed_by() { # the key file that the machine's own source of suite $1 or codename $2 names, or Debian's
  local file key=
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ ! -f "$file" ] || [ -n "$key" ]; then continue; fi
    case $file in
      *.list) key=$(grep -E "^deb .* ($1|$2) " "$file" | sed -nE 's/.*[[ ]signed-by=([^] ]+).*/\1/p' | head -n 1) ;;
      *) key=$(awk -v RS= -v suite=" ($1|$2)( |\n|$)" '$0 ~ "(^|\n)Suites:[^\n]*" suite' "$file" |
        sed -nE 's/^Signed-By: *(\/.*)/\1/p' | head -n 1) ;;
    esac
  done
  [ -n "$key" ] || key=/usr/share/keyrings/debian-archive-keyring.gpg
  [ ! -r "$key" ] || printf '%s\n' "$key"
}

# Debian's stable QEMU may be too old. Its backports come from where its own packages come from.
add_backports() {
  local codename=$1 uri suite key
  if LC_ALL=C apt-cache policy | grep -E "[, ]n=$codename-backports(,|\$)" >/dev/null; then return 0; fi
  read -r uri suite < <(
    # shellcheck disable=SC2016 # apt-get expands these
    apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
      awk -v codename="$codename" '$1 == codename && $2 == "main" { print $3, $4; exit }'
  ) || die "apt knows no Debian main source of $codename to take backports from"
  key=$(signed_by "$suite" "$codename")
  say "adding the apt source $codename-backports (/etc/apt/sources.list.d/stillframe-backports.sources)"
  # shellcheck disable=SC2016 # expanded by the inner shell
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n%s' "${uri%/}" "$codename-backports" \
    "${key:+Signed-By: $key$'\n'}" |
    as_root sh -c 'cat >/etc/apt/sources.list.d/stillframe-backports.sources'
  apt_update
}

# No cluster is to come with PostgreSQL: who wants one starts it.
forbid_main_cluster() {
  local file=/etc/postgresql-common/createcluster.conf
  if [ -n "$(installed_version postgresql-common)" ] || grep -qs '^ *create_main_cluster' "$file"; then return 0; fi
  as_root mkdir -p "${file%/*}"
  echo 'create_main_cluster = false' | as_root sh -c "cat >>$file"
}

ensure_packages() {
  local wanted=() virtual=() codename
  # shellcheck disable=SC2016 # dpkg-query expands these
  installed=" $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | tr '\n' ' ') "
  mapfile -t wanted < <(missing_of "${packages_always[@]}" "${packages_wanted[@]}" "$@")
  mapfile -t virtual < <(missing_of "${packages_virtual[@]}")
  if [ "${#virtual[@]}" = 0 ] && [ "$(os_release ID)" = debian ] && are_below_floor installed; then
    virtual=("${packages_virtual[@]}")
  fi
  [ "$((${#wanted[@]} + ${#virtual[@]}))" -gt 0 ] || return 0

  say "fetching the package lists"
  apt_update
  forbid_service_starts
  if [ "${#wanted[@]}" -gt 0 ]; then
    say "installing ${wanted[*]}"
    forbid_main_cluster
    apt_install "${wanted[@]}"
  fi
  [ "${#virtual[@]}" -gt 0 ] || { allow_service_starts; return 0; }

  local release=()
  if [ "$(os_release ID)" = debian ] && are_below_floor candidate; then
    codename=$(os_release VERSION_CODENAME)
    add_backports "$codename"
    release=(-t "$codename-backports")
    virtual=("${packages_virtual[@]}") # all from one release
  fi
  say "installing ${virtual[*]}${release:+ from ${release[1]}}"
  apt_install "${release[@]}" "${virtual[@]}"
  allow_service_starts
  if is_below "$(installed_version qemu-system-x86)" "$qemu_floor"; then
    say "this machine's QEMU is $(installed_version qemu-system-x86): memory snapshots need QEMU $qemu_floor or newer;" \
      "everything else works"
  fi
  if is_below "$(installed_version libvirt-daemon)" "$libvirt_floor"; then
    say "this machine's libvirt is $(installed_version libvirt-daemon): $libvirt_floor or newer is needed"
  fi
}

# --- Python ------------------------------------------------------------------------------------------------------

find_python() { # the executable behind the first good enough Python on PATH, or nothing
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    # The base executable: should a virtual environment be active, it is not the one to build on.
    "$name" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys._base_executable)' 2>/dev/null && break
  done
  return 0
}

has_uv() { uv --version >/dev/null 2>&1; }

# The packages that Python itself lacks: headers (libvirt-python is compiled here), and venv where uv comes from pip.
python_packages() {
  local python version
  python=$(find_python)
  if [ -z "$python" ]; then
    if command -v python3 >/dev/null; then
      die "Python 3.11 or newer is needed; python3 is $(python3 --version 2>&1)"
    fi
    printf '%s\n' python3 python3-dev python3-venv
    return
  fi
  [[ $python == /usr/bin/* ]] || return 0 # not Debian's: it has what its builder gave it
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    echo "python$version-dev"
  has_uv || "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
}

environment_stamp() { { cat pyproject.toml uv.lock && pwd; } | sha256sum | cut -d' ' -f1; }

# An environment that was moved or copied here still has the old place in its scripts.
environment_is_usable() {
  grep -qsF -- "$root/.venv/" .venv/bin/stillframe && .venv/bin/python -c 'import libvirt' 2>/dev/null
}

environment_is_current() {
  [ "$(cat build/venv.stamp 2>/dev/null)" = "$(environment_stamp)" ] && environment_is_usable
}

find_uv() { # sets $uv to the machine's own, or to one of ours
  local python=$1
  uv=uv
  if ! has_uv; then
    uv=$root/build/uv/bin/uv
    if [ "$("$uv" --version 2>/dev/null | cut -d' ' -f2)" != "$uv_version" ]; then
      say "installing uv $uv_version into build/uv"
      rm -rf build/uv
      run "make a virtual environment for uv" "$python" -m venv build/uv
      # The machine's own certificates, as for uv below: a company's proxy may stand between.
      run "install uv" env PIP_CERT="${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" build/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
    fi
  fi
}

sync_packages() { # sync_packages DIRECTORY OPTION...: the packages of uv.lock in an environment of their own
  local directory=$1 python uv
  shift
  python=$(find_python)
  [ -n "$python" ] || die "Python 3.11 or newer is needed"
  find_uv "$python"
  [ -d "$directory" ] || export UV_PYTHON=$python
  run "install the Python packages" env -u VIRTUAL_ENV UV_PROJECT_ENVIRONMENT="$directory" UV_PYTHON_DOWNLOADS=never \
    UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}" "$uv" sync --frozen "$@"
}

sync_environment() {
  environment_is_usable || rm -rf .venv
  say "installing the Python packages of uv.lock into .venv"
  sync_packages .venv
  environment_stamp >build/venv.stamp
}

# What builds the documents is nothing that the service or its tests import.
sync_docs() {
  if [ "$(cat build/docs.stamp 2>/dev/null)" = "$(environment_stamp)" ] && build/docs/bin/python -c 'import mkdocs' 2>/dev/null
  then return 0; fi
  rm -rf build/docs
  say "installing MkDocs into build/docs"
  sync_packages build/docs --only-group docs
  environment_stamp >build/docs.stamp
}

# Ubuntu's package of Chromium is a snap, which a machine without snapd cannot use: there those tests say so and are skipped.
if [[ " $* " == *" browser "* ]] && [ "$(os_release ID)" = debian ]; then
  packages_wanted=("${packages_browser[@]}")
fi

# --- all of it ---------------------------------------------------------------------------------------------------

command -v apt-get >/dev/null || die "works on Debian and Ubuntu only; elsewhere see README.md for what is needed"

if environment_is_current; then
  ensure_packages
else
  python_missing=$(python_packages)
  # shellcheck disable=SC2086 # a list of package names
  ensure_packages $python_missing
  sync_environment
fi
if [[ " $* " == *" docs "* ]]; then sync_docs; fi

guest=.venv/share/stillframe/guest
if ! tests/guest/build.sh --is-current "$guest"; then
  say "building the witness guest"
  if ! tests/guest/build.sh "$guest" >>"$log" 2>&1 </dev/null; then
    apt_update # the package lists may be old, or there may be none
    run "build the witness guest" tests/guest/build.sh "$guest"
  fi
fi
