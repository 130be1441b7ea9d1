# shellcheck shell=bash
# A database and a Redis of a script's own, and settings of a whole stack on them.
#
# Sourced after common.sh and servers.sh. Whoever calls private_stack traps EXIT with leave_private_stack.

# private_stack NAME: exports the settings of all services, with free ports.
private_stack() {
    local psql
    STACK_DATABASE=${1//-/_}_$$
    # Joins even where the caller has started the server: its URL is one line of what this prints.
    STACK_ADMIN_URL=${ZYVEN_TEST_DATABASE_URL:-$("$ZYVEN_ROOT/scripts/test-services.sh" join $$ | sed -n 's/^ZYVEN_TEST_DATABASE_URL=//p')}
    psql=$(find_psql) || die "psql is missing (Debian: apt-get install postgresql-client)"
    "$psql" -Xq "$STACK_ADMIN_URL" -c "CREATE DATABASE $STACK_DATABASE"
    start_private_redis
    INGEST=127.0.0.1:$(free_port)
    EGRESS=127.0.0.1:$(free_port)
    DOORBELL=127.0.0.1:$(free_port)
    PROBE=127.0.0.1:$(free_port)
    CONSOLE=127.0.0.1:$(free_port)
    export ZYVEN_DATABASE_URL=${STACK_ADMIN_URL%/*}/$STACK_DATABASE
    ZYVEN_MASTER_KEYS=$1:$(random_base64 32)
    ZYVEN_EGRESS_CREDENTIAL=$(random_hex 24)
    export ZYVEN_MASTER_KEYS ZYVEN_EGRESS_CREDENTIAL
    export ZYVEN_INGEST_LISTEN=$INGEST ZYVEN_CONSOLE_LISTEN=$CONSOLE
    export ZYVEN_RELAY_DOORBELLS=$DOORBELL ZYVEN_RELAY_DOORBELL_LISTEN=$DOORBELL
    export ZYVEN_EGRESS_LISTEN=$EGRESS ZYVEN_EGRESS_PROXIES=$EGRESS ZYVEN_EGRESS_ALLOW_CIDRS=127.0.0.1/32
    export ZYVEN_PROBE_LISTEN=$PROBE
}

start_private_redis() {
    local port
    STACK_FOLDER=$(mktemp -d)
    port=$(free_port)
    # Dies of SIGKILL in leave_private_stack; keeps nothing on disk.
    "$(find_redis_server)" --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$STACK_FOLDER" \
        >"$STACK_FOLDER/redis.log" 2>&1 &
    STACK_REDIS_ID=$!
    disown
    await 200 port_is_taken "$port" || die "Redis does not start: $(tail -n 5 "$STACK_FOLDER/redis.log")"
    export ZYVEN_REDIS_URL=redis://127.0.0.1:$port/
}

leave_private_stack() {
    if [ -n "${STACK_REDIS_ID:-}" ]; then kill -KILL "$STACK_REDIS_ID" 2>/dev/null || true; fi
    if [ -n "${STACK_FOLDER:-}" ]; then rm -rf "$STACK_FOLDER"; fi
    if [ -n "${STACK_ADMIN_URL:-}" ]; then
        "$(find_psql)" -Xq "$STACK_ADMIN_URL" -c "DROP DATABASE IF EXISTS $STACK_DATABASE WITH (FORCE)" >/dev/null 2>&1 || true
        "$ZYVEN_ROOT/scripts/test-services.sh" leave $$ >/dev/null 2>&1 || true
    fi
}

# node_packages FOLDER PACKAGE_JSON: fetches what it lists, unless that was fetched before.
node_packages() {
    if ! have node || ! have npm; then
        if is_root && have apt-get; then apt_install nodejs npm; fi
        if ! have node || ! have npm; then
            die "node 18 or newer and npm are needed (Debian: apt-get install nodejs npm)"
        fi
    fi
    mkdir -p "$1"
    if ! cmp -s "$2" "$1/fetched.json"; then
        cp "$2" "$1/package.json"
        npm install --prefix "$1" --no-audit --no-fund --no-update-notifier --loglevel=error >&2 || die "npm cannot fetch the packages"
        cp "$1/package.json" "$1/fetched.json"
    fi
}
