#!/usr/bin/env bash
# The local stack: private PostgreSQL and Redis, every Zyven service as a process of its own, an echo receiver, and
# a first tenant. `make up`, `make down` and their like call this.
#
#   local.sh up        starts whatever does not run yet; harmless when everything does
#   local.sh down      stops everything; data stays
#   local.sh restart   down and up
#   local.sh status    what runs, where, since when
#   local.sh logs      follows all logs (logs NAME: one of them)
#   local.sh wipe      stops everything and deletes all data
#   local.sh run …     runs `zyven …` against the stack, e.g. run demo
#   local.sh sql NAME  runs sql/operator/NAME.sql with psql; NAME=VALUE arguments become psql variables
#   local.sh psql …    psql on the stack's database, or on that of ZYVEN_DATABASE_URL
#   local.sh metrics NAME  what the service says at /metrics
#
# Where a Docker engine answers, compose.yaml is used, otherwise local programs; ZYVEN_LOCAL_ENGINE=docker|native
# decides otherwise. Everything lives in .zyven/. Ports start at ZYVEN_LOCAL_PORT_BASE (47000).
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"
# shellcheck source=scripts/lib/processes.sh
. "$ZYVEN_ROOT/scripts/lib/processes.sh"
# shellcheck source=scripts/lib/settings.sh
. "$ZYVEN_ROOT/scripts/lib/settings.sh"
# shellcheck source=scripts/lib/compose.sh
. "$ZYVEN_ROOT/scripts/lib/compose.sh"

HOME_FOLDER=$ZYVEN_ROOT/.zyven
RUN=$HOME_FOLDER/run
LOGS=$HOME_FOLDER/logs
# A dispatcher finishes the requests it holds before it ends.
STOP_S_MAX=40
READY_S_MAX=60
LOG_KIB_MAX=20480
# In the order they are started; stopped in reverse, so that nothing is accepted that nobody could take further.
SERVICES="egress echo dispatcher relay ingest console"

# Servers -------------------------------------------------------------------------------------------

start_postgres() {
    local folder
    folder=$(server_folder "$HOME_FOLDER/postgres")
    printf '%s\n' "$folder" >"$HOME_FOLDER/postgres-folder"
    if postgres_is_running "$folder/data"; then return; fi
    refuse_taken_port "$PORT_POSTGRES" PostgreSQL
    if ! as_server_user test -f "$folder/data/PG_VERSION"; then
        say "making a PostgreSQL cluster in $folder/data"
        # What an interrupted initdb left is not a cluster.
        rm -rf "${folder:?}/data"
        postgres_init "$folder/data" "$POSTGRES_PASSWORD"
        rm -f "$HOME_FOLDER/demo.json"
    fi
    postgres_start_as_usual "$folder/data" "$PORT_POSTGRES" "$folder/log" || die "PostgreSQL does not start; see $folder/log"
    make_database
}

make_database() {
    local psql
    psql=$(find_psql) || die "psql is missing (Debian: apt-get install postgresql-client)"
    local url=postgres://zyven@127.0.0.1:$PORT_POSTGRES/postgres
    export PGPASSWORD=$POSTGRES_PASSWORD
    if [ -z "$("$psql" -XAtq "$url" -c "SELECT 1 FROM pg_database WHERE datname = 'zyven'")" ]; then
        "$psql" -Xq "$url" -c 'CREATE DATABASE zyven' || die "the database zyven cannot be made"
    fi
    unset PGPASSWORD
}

# After each migration, which may have added something to grant.
make_roles() {
    local psql setting
    psql=$(find_psql) || die "psql is missing (Debian: apt-get install postgresql-client)"
    (
        while IFS= read -r setting; do export "${setting?}"; done < <(role_passwords)
        export PGPASSWORD=$POSTGRES_PASSWORD
        "$psql" -Xq "postgres://zyven@127.0.0.1:$PORT_POSTGRES/zyven" -f "$ZYVEN_ROOT/sql/roles.sql" \
            -f "$ZYVEN_ROOT/scripts/lib/roles-log-in.sql"
    ) >>"$LOGS/migrate.log" 2>&1 || {
        tail -n 20 "$LOGS/migrate.log" >&2
        die "the database roles cannot be made; see $LOGS/migrate.log"
    }
}

start_redis() {
    local folder
    folder=$(server_folder "$HOME_FOLDER/redis")
    printf '%s\n' "$folder" >"$HOME_FOLDER/redis-folder"
    if redis_id >/dev/null; then return; fi
    refuse_taken_port "$PORT_REDIS" Redis
    redis_start "$folder" "$PORT_REDIS" "$REDIS_PASSWORD" || die "Redis does not start; see $folder/log"
    await 200 redis_id >/dev/null || die "Redis does not start; see $folder/log"
    await 200 port_is_taken "$PORT_REDIS" || die "Redis does not listen; see $folder/log"
}

# Redis writes its own pid file; its command line tells whether the process is still that one.
redis_id() {
    local folder pid
    folder=$(cat "$HOME_FOLDER/redis-folder" 2>/dev/null) || return 1
    pid=$(cat "$folder/pid" 2>/dev/null) || return 1
    alive "$pid" && ps -o args= -p "$pid" | grep -q ":$PORT_REDIS" && printf '%s\n' "$pid"
}

stop_servers() {
    local pid
    if pid=$(redis_id); then
        kill -TERM "$pid"
        await 400 redis_is_gone || die "Redis (process $pid) does not end"
    fi
    if [ -f "$HOME_FOLDER/postgres-folder" ]; then
        postgres_stop "$(cat "$HOME_FOLDER/postgres-folder")/data" fast || die "PostgreSQL does not end"
    fi
}

redis_is_gone() { ! redis_id >/dev/null; }

refuse_taken_port() {
    local holder
    port_is_taken "$1" || return 0
    holder=$(listener_of "$1")
    die "port $1, wanted for $2, is taken${holder:+ by $holder}.
  Stop that program, or choose other ports: ZYVEN_LOCAL_PORT_BASE=$((PORT_BASE + 1000)) make up"
}

# Services ------------------------------------------------------------------------------------------

build() {
    have cargo || die "cargo is missing; see https://rustup.rs"
    say "building zyven ($PROFILE); the first time takes a few minutes"
    (cd "$ZYVEN_ROOT" && cargo build --quiet --locked --profile "$PROFILE" --bin zyven) >&2 9>&-
}

# The program with the stack's settings in its environment, in place of this shell.
zyven() {
    load_settings
    exec "$PROGRAM" "$@"
}

service_port() {
    case $1 in
    ingest) echo "$PORT_INGEST" ;;
    console) echo "$PORT_CONSOLE" ;;
    egress) echo "$PORT_EGRESS" ;;
    echo) echo "$PORT_ECHO" ;;
    esac
}

start_service() {
    local name=$1 port probe fingerprint
    probe=127.0.0.1:$(probe_port "$name")
    # A new build or other settings replace a running service.
    fingerprint=$(cat "$PROGRAM" "$HOME_FOLDER/env" | cksum | tr ' ' -)
    if process_id "$name" >/dev/null; then
        if [ "$(process_fingerprint "$name")" = "$fingerprint" ]; then return; fi
        say "$name is restarted: program or settings have changed"
        process_stop "$name"
    fi
    for port in $(service_port "$name") "${probe##*:}"; do refuse_taken_port "$port" "$name"; done
    if [ "$name" = echo ]; then
        set -- echo --listen "127.0.0.1:$PORT_ECHO"
    else
        set -- "$name"
    fi
    (
        load_settings
        use_own_role "$name"
        forget_what_is_not_for "$name"
        export ZYVEN_PROBE_LISTEN=$probe
        process_start_detached "$name" "$fingerprint" "$PROGRAM" "$@"
    )
}

is_ready() {
    # A service that has ended will not become ready.
    process_id "$1" >/dev/null || return 0
    if [ "$1" = echo ]; then
        port_is_taken "$PORT_ECHO"
    else
        "$PROGRAM" probe "http://127.0.0.1:$(probe_port "$1")/readyz" >/dev/null 2>&1
    fi
}

wait_for_service() {
    if await $((READY_S_MAX * 20)) is_ready "$1" && process_id "$1" >/dev/null; then return; fi
    tail -n 20 "$LOGS/$1.log" >&2 || true
    die "$1 does not get ready; its log: $LOGS/$1.log"
}

# Commands ------------------------------------------------------------------------------------------

up_native() {
    local service
    require_servers
    build
    start_postgres
    start_redis
    (zyven migrate) >>"$LOGS/migrate.log" 2>&1 || {
        tail -n 20 "$LOGS/migrate.log" >&2
        die "the database cannot be migrated; see $LOGS/migrate.log"
    }
    make_roles
    for service in $SERVICES; do start_service "$service"; done
    for service in $SERVICES; do wait_for_service "$service"; done
}

down_native() {
    local service reversed=""
    for service in $SERVICES; do reversed="$service $reversed"; done
    for service in $reversed; do process_stop "$service"; done
    stop_servers
}

status_native() {
    local service pid folder
    folder=$(cat "$HOME_FOLDER/postgres-folder" 2>/dev/null || true)
    if [ -n "$folder" ] && postgres_is_running "$folder/data"; then
        printf '%-11s running   127.0.0.1:%s\n' postgres "$PORT_POSTGRES"
    else
        printf '%-11s stopped\n' postgres
    fi
    if pid=$(redis_id); then
        printf '%-11s running   127.0.0.1:%-6s process %s\n' redis "$PORT_REDIS" "$pid"
    else
        printf '%-11s stopped\n' redis
    fi
    for service in ingest relay dispatcher egress console echo; do
        if pid=$(process_id "$service"); then
            printf '%-11s %-9s 127.0.0.1:%-6s process %s, up %s\n' "$service" \
                "$(if is_ready "$service"; then echo ready; else echo "not ready"; fi)" \
                "$(service_port "$service" | grep . || probe_port "$service")" \
                "$pid" "$(ps -o etime= -p "$pid" | tr -d ' ')"
        else
            printf '%-11s stopped\n' "$service"
        fi
    done
}

# The first tenant, its key and its endpoint. A key is shown once, so it is kept here until the data is wiped.
seed() {
    if [ ! -s "$HOME_FOLDER/demo.json" ]; then
        (umask 077 && run_zyven admin seed-demo --json --receiver "$(echo_url)" >"$HOME_FOLDER/demo.json.new") ||
            die "the first tenant cannot be made"
        mv "$HOME_FOLDER/demo.json.new" "$HOME_FOLDER/demo.json"
    fi
}

demo_value() { sed -nE 's/.*"'"$1"'" *: *"([^"]*)".*/\1/p' "$HOME_FOLDER/demo.json" | head -n 1; }

greet() {
    cat <<END

Zyven is up. Post an event; it is delivered, signed, to the echo receiver:

  curl -i http://127.0.0.1:$PORT_INGEST/v1/events \\
    -H 'Authorization: Bearer $(demo_value api_key)' \\
    -H 'Content-Type: application/json' \\
    -H 'Idempotency-Key: $(random_hex 6)' \\
    -d '{"type":"invoice.paid","payload":{"invoice":"INV-1001","amount":4200,"currency":"EUR"}}'

Or with commands (docs/cli.md):

  export ZYVEN_API_URL=http://127.0.0.1:$PORT_INGEST ZYVEN_API_KEY=$(demo_value api_key)
  $(client) events tail

The console:      http://127.0.0.1:$PORT_CONSOLE/   (log in with the key above)
The API's pages:  http://127.0.0.1:$PORT_INGEST/docs   (OpenAPI: /openapi.json)
See it arrive:    make logs SERVICE=echo
Logs:             $(logs_are_in)
See all states:   make demo
Stop:             make down        (make help lists everything)
END
}

client() {
    if [ "$ENGINE" = docker ]; then echo zyven; else echo "$PROGRAM"; fi
}

logs_are_in() {
    if [ "$ENGINE" = docker ]; then echo "make logs"; else echo "$LOGS/*.log"; fi
}

run_zyven() {
    if [ "$ENGINE" = docker ]; then
        compose run --rm --no-deps --quiet-pull -T tools "$@"
    else
        [ -x "$PROGRAM" ] || die "the stack has not been built; run make up first"
        (zyven "$@")
    fi
}

run_sql() {
    local file=$ZYVEN_ROOT/sql/operator/$1.sql argument
    [ -f "$file" ] || die "there is no $file"
    shift
    set -- "$@" --
    # NAME=VALUE becomes -v NAME=VALUE; empty values are left out, so that a script's default applies.
    while [ "$1" != -- ]; do
        argument=$1
        shift
        if [ -n "${argument#*=}" ]; then set -- "$@" -v "$argument"; fi
    done
    shift
    # A container does not see the file.
    if is_database_in_container; then run_psql "$@" -f - <"$file"; else run_psql "$@" -f "$file"; fi
}

# An operator's own ZYVEN_DATABASE_URL wins over the local stack's.
is_database_in_container() { [ "$ENGINE" = docker ] && [ -z "${ZYVEN_DATABASE_URL:-}" ]; }

run_psql() {
    local psql
    if is_database_in_container; then
        compose exec -T --env "PGOPTIONS=${PGOPTIONS:-}" postgres psql -X -U zyven -d zyven "$@"
        return
    fi
    psql=$(find_psql) || die "psql is missing (Debian: apt-get install postgresql-client)"
    (
        if [ -z "${ZYVEN_DATABASE_URL:-}" ]; then load_settings; fi
        exec "$psql" -X "$ZYVEN_DATABASE_URL" "$@"
    )
}

show_metrics() {
    if [ "$ENGINE" = docker ]; then die "metrics are inside the containers' network"; fi
    curl -fsS "http://127.0.0.1:$(probe_port "$1")/metrics"
}

follow_logs() {
    if [ "$ENGINE" = docker ]; then
        compose logs --follow --tail 50 "$@"
    else
        [ -d "$LOGS" ] || die "there are no logs yet; run make up first"
        if [ "$#" -gt 0 ]; then
            # tail would wait for a file that never comes.
            [ -f "$LOGS/$1.log" ] || die "there is no log of \"$1\"; there are logs of: $(cd "$LOGS" && echo *.log | sed 's/\.log//g')"
            exec tail -n 50 -F "$LOGS/$1.log"
        fi
        exec tail -n 5 -F "$LOGS"/*.log
    fi
}

up() {
    mkdir -p "$RUN" "$LOGS"
    lock "$HOME_FOLDER/lock"
    write_settings
    printf '%s\n' "$ENGINE" >"$HOME_FOLDER/engine"
    if [ "$ENGINE" = docker ]; then up_docker; else up_native; fi
    seed
    unlock
    greet
}

down() {
    [ -f "$HOME_FOLDER/engine" ] || { say "nothing to stop"; return; }
    lock "$HOME_FOLDER/lock"
    if [ "$ENGINE" = docker ]; then down_docker "$@"; else down_native; fi
    unlock
    say "stopped"
}

wipe() {
    local name folder
    [ -d "$HOME_FOLDER" ] || return 0
    down --volumes
    for name in postgres redis; do
        folder=$(cat "$HOME_FOLDER/$name-folder" 2>/dev/null || true)
        [ -z "$folder" ] || rm -rf "$folder"
    done
    # What was fetched for tests (.zyven/real-input) is not data of the stack.
    for name in postgres-folder redis-folder demo.json engine port-base run logs compose secrets env; do
        rm -rf "${HOME_FOLDER:?}/$name"
    done
    say "all data of the local stack is gone"
}

command=${1:-}
[ "$#" -eq 0 ] || shift
choose_engine "$command"
read_ports
case $command in
up) up ;;
down) down ;;
restart)
    down
    up
    ;;
status) if [ "$ENGINE" = docker ]; then compose ps; else status_native; fi ;;
logs) follow_logs "$@" ;;
wipe) wipe ;;
run) run_zyven "$@" ;;
sql) run_sql "$@" ;;
psql) run_psql "$@" ;;
metrics) show_metrics "$@" ;;
*)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2
    exit 64
    ;;
esac
