#!/usr/bin/env bash
# Makes sure that the servers which tests start are installed: etcd, PostgreSQL, Redis, HAProxy, Prometheus.
# They are never run as system services: a test starts its own processes on ports that it picks.
# As root on a Debian system it installs what is missing; otherwise it says what to install and fails.
set -euo pipefail

declare -A package_of=(
    [etcd]=etcd-server
    [psql]=postgresql-client
    [redis-server]=redis-server
    [redis-cli]=redis-tools
    [haproxy]=haproxy
    [prometheus]=prometheus
    [promtool]=prometheus
)

missing=()
for binary in "${!package_of[@]}"; do
    command -v "$binary" >/dev/null || missing+=("${package_of[$binary]}")
done
# Debian keeps PostgreSQL's server binaries out of PATH; pgbench comes with the same packages.
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
compgen -G '/usr/lib/postgresql/*/bin/pgbench' >/dev/null || missing+=(postgresql-contrib)
[ ${#missing[@]} -eq 0 ] && exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "make test needs servers that are not installed. On Debian, as root:" >&2
    echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "installing what tests start: ${missing[*]}"
# None of these may run as a service: not now (policy-rc.d), not after a reboot (masks), no default cluster.
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
    trap 'rm -f "$guard"' EXIT
fi
mkdir -p /etc/systemd/system /etc/postgresql-common
for package in "${missing[@]}"; do
    case "$package" in
        etcd-server) units=(etcd.service) ;;
        redis-server) units=(redis-server.service) ;;
        haproxy) units=(haproxy.service) ;;
        prometheus) units=(prometheus.service) ;;
        *) units=() ;;
    esac
    for unit in "${units[@]}"; do
        [ -e "/etc/systemd/system/$unit" ] || ln -s /dev/null "/etc/systemd/system/$unit"
    done
done
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-confold "${missing[@]}")
# Package lists may be absent or old: fetch them and try again before giving up.
"${install[@]}" || { apt-get update -q && "${install[@]}"; }
