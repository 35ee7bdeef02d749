#!/usr/bin/env bash
# Installs the `docker compose` plugin (version 2) on Debian 12, whose own packages only have version 1: takes the one
# binary out of the next release's package, from the mirror that this machine already uses. Changes no package source.
set -euo pipefail

docker compose version >/dev/null 2>&1 && exit 0
[ "$(id -u)" -eq 0 ] || { echo "run this as root, or install Docker's Compose plugin yourself" >&2; exit 1; }
sources=/etc/apt/sources.list.d/debian.sources
[ -f "$sources" ] || { echo "$sources is not there: install Docker's Compose plugin yourself" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial"
# The first stanza is the main archive; the second is security's, which names its suites otherwise.
awk 'BEGIN { RS = "" } NR == 1' "$sources" | sed 's/^Suites:.*/Suites: trixie/' >"$work/sources/next.sources"
apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources"
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root)
cd "$work"
"${apt[@]}" update
"${apt[@]}" download docker-compose
dpkg-deb -x docker-compose_*.deb unpacked
install -D -m 0755 unpacked/usr/libexec/docker/cli-plugins/docker-compose \
    /usr/local/libexec/docker/cli-plugins/docker-compose
docker compose version
