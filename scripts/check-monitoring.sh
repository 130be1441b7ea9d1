#!/usr/bin/env bash
# Checks the alert rules and tries them out (promtool check rules, promtool test rules), and with a base URL as its argument what a
# running process says at /metrics (promtool check metrics). promtool comes with Prometheus; where it is missing it is installed when that
# is possible, and the check is skipped otherwise.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

if ! have promtool && is_root && have apt-get; then
    # Only promtool is wanted, not a server that starts by itself: the package is fetched and unpacked, not installed.
    folder=$ZYVEN_ROOT/.zyven/promtool
    if [ ! -x "$folder/usr/bin/promtool" ]; then
        mkdir -p "$folder"
        { apt-get update -qq && cd "$folder" && apt-get -o APT::Sandbox::User=root download -qq prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb; } >&2 || true
    fi
    PATH=$folder/usr/bin:$PATH
fi
if ! have promtool; then
    say "monitoring: SKIPPED, promtool is not installed"
    exit 0
fi
cd "$ZYVEN_ROOT/monitoring/prometheus"
promtool check config prometheus.yaml >&2
promtool check rules alerts.yaml >&2
promtool test rules alerts_test.yaml >&2
for url in "$@"; do
    curl -fsS "$url/metrics" | promtool check metrics >&2
done
say "monitoring: alert rules$([ "$#" -eq 0 ] || echo " and metrics") are in order"
