#!/usr/bin/env bash
# Sends GitHub's published webhook examples (npm: @octokit/webhooks-examples) through real Zyven processes on a real
# PostgreSQL and Redis; a receiver with the official Standard Webhooks library (npm: standardwebhooks) verifies every
# signature and compares every byte. Ends non-zero when anything is missing, altered or unverified.
#
# The packages are fetched into .zyven/real-input when this runs. ZYVEN_TEST_BINARY names another program than target/debug/zyven.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"

PACKAGES=$ZYVEN_ROOT/.zyven/real-input
PROGRAM=${ZYVEN_TEST_BINARY:-${CARGO_TARGET_DIR:-$ZYVEN_ROOT/target}/debug/zyven}
DATABASE=real_input_$$

fetch_packages() {
    if ! have node || ! have npm; then
        if is_root && have apt-get; then apt_install nodejs npm; fi
        if ! have node || ! have npm; then
            die "node 18 or newer and npm are needed (Debian: apt-get install nodejs npm)"
        fi
    fi
    mkdir -p "$PACKAGES"
    if ! cmp -s "$ZYVEN_ROOT/scripts/real-input/package.json" "$PACKAGES/fetched.json"; then
        cp "$ZYVEN_ROOT/scripts/real-input/package.json" "$PACKAGES/package.json"
        npm install --prefix "$PACKAGES" --no-audit --no-fund --no-update-notifier --loglevel=error >&2 || die "npm cannot fetch the packages"
        cp "$PACKAGES/package.json" "$PACKAGES/fetched.json"
    fi
}

clean_up() {
    if [ -n "${REDIS_ID:-}" ]; then kill -KILL "$REDIS_ID" 2>/dev/null || true; fi
    if [ -n "${FOLDER:-}" ]; then rm -rf "$FOLDER"; fi
    if [ -n "${ADMIN_URL:-}" ]; then
        "$(find_psql)" -Xq "$ADMIN_URL" -c "DROP DATABASE IF EXISTS $DATABASE WITH (FORCE)" >/dev/null 2>&1 || true
        "$ZYVEN_ROOT/scripts/test-services.sh" leave $$ >/dev/null 2>&1 || true
    fi
}

start_redis() {
    local port
    FOLDER=$(mktemp -d)
    port=$(free_port)
    # Dies of SIGKILL in clean_up; keeps nothing on disk.
    "$(find_redis_server)" --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$FOLDER" \
        >"$FOLDER/redis.log" 2>&1 &
    REDIS_ID=$!
    disown
    await 200 port_is_taken "$port" || die "Redis does not start: $(tail -n 5 "$FOLDER/redis.log")"
    export ZYVEN_REDIS_URL=redis://127.0.0.1:$port/
}

[ -x "$PROGRAM" ] || die "$PROGRAM is missing; build it with: cargo build --bin zyven"
fetch_packages
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Joins even where the caller has started the server: its URL is one line of what this prints.
ADMIN_URL=${ZYVEN_TEST_DATABASE_URL:-$("$ZYVEN_ROOT/scripts/test-services.sh" join $$ | sed -n 's/^ZYVEN_TEST_DATABASE_URL=//p')}
psql=$(find_psql) || die "psql is missing (Debian: apt-get install postgresql-client)"
"$psql" -Xq "$ADMIN_URL" -c "CREATE DATABASE $DATABASE"
start_redis

INGEST=127.0.0.1:$(free_port)
EGRESS=127.0.0.1:$(free_port)
DOORBELL=127.0.0.1:$(free_port)
PROBE=127.0.0.1:$(free_port)
export ZYVEN_DATABASE_URL=${ADMIN_URL%/*}/$DATABASE
ZYVEN_MASTER_KEYS=real-input:$(random_base64 32)
ZYVEN_EGRESS_CREDENTIAL=$(random_hex 24)
export ZYVEN_MASTER_KEYS ZYVEN_EGRESS_CREDENTIAL
export ZYVEN_INGEST_LISTEN=$INGEST
export ZYVEN_RELAY_DOORBELLS=$DOORBELL ZYVEN_RELAY_DOORBELL_LISTEN=$DOORBELL
export ZYVEN_EGRESS_LISTEN=$EGRESS ZYVEN_EGRESS_PROXIES=$EGRESS ZYVEN_EGRESS_ALLOW_CIDRS=127.0.0.1/32
export ZYVEN_PROBE_LISTEN=$PROBE

API=http://$INGEST PROBE=http://$PROBE PACKAGES=$PACKAGES PROGRAM=$PROGRAM \
    node "$ZYVEN_ROOT/scripts/real-input/main.mjs"
