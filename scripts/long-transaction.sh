#!/usr/bin/env bash
# `make bench-held`: what a transaction that stays open costs. Publishes at a fixed rate on the local stack twice, without and with
# a transaction that was open before the first event and stays open until the last one arrived. It has a snapshot and an id of its own,
# so that nothing that goes meanwhile can be cleaned up.
#
# Environment: RATE (events per second, default 1000), HELD (how long, default 600s), ALONE (how long without it, default 60s).
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

cd "$ZYVEN_ROOT"
rate=${RATE:-1000}
# The transaction has to be open where the load goes.
unset ZYVEN_DATABASE_URL
scripts/local.sh metrics relay >/dev/null || die "the local stack must be up, without Docker (make up)"

bench() { scripts/local.sh run bench --scenario open --rate "$rate" --warm-up 5s --verbose --duration "$1"; }

say "without it:"
bench "${ALONE:-60s}"

# Waits for its own end of input: nothing is left of it whatever becomes of this script.
coproc held { scripts/local.sh psql -Atq; }
exec 3>&"${held[1]}"
printf '%s\n' "BEGIN ISOLATION LEVEL REPEATABLE READ;" "SELECT 'open: ' || pg_current_xact_id();" >&3
read -r opened <&"${held[0]}"
say "with transaction ${opened#open: } open:"
bench "${HELD:-600s}"
say "what the relay says about it:"
scripts/local.sh metrics relay | grep '^zyven_relay_oldest_transaction_seconds'
