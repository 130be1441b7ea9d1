#!/usr/bin/env bash
# The PostgreSQL server that all tests of this checkout share. `make test` and the testkit both use this script.
#
#   test-services.sh join PID     PID uses the server from now on; starts it if need be; prints its settings
#   test-services.sh leave PID    PID needs it no longer; the last one to leave stops it
#   test-services.sh env          prints the settings of a running server, or fails
#   test-services.sh where        prints programs, user and folder, for tests that start servers of their own
#   test-services.sh stop         stops it, whoever uses it, and removes its data
#
# Test processes come and go by the hundred and some are killed, so nobody has to say goodbye: a watchdog stops the
# server once every process that joined has been gone for LINGER_S seconds. Data is disposable: fsync is off.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"

LINGER_S=20
FOLDER=${ZYVEN_TEST_FOLDER:-$ZYVEN_ROOT/target/test-services}
USERS=$FOLDER/users # one empty file per process id

mkdir -p "$USERS"

settings_file() { printf '%s\n' "$FOLDER/env"; }

# Forgets processes that are gone; succeeds while somebody is left.
anyone_left() {
    local file left=1
    for file in "$USERS"/*; do
        [ -e "$file" ] || continue
        if alive "${file##*/}"; then left=0; else rm -f "$file"; fi
    done
    return "$left"
}

is_running() {
    [ -f "$(settings_file)" ] && postgres_is_running "$(cat "$FOLDER/data-folder")/data"
}

# Removes the shared server's data, and what single tests' servers left (private/NAME-PID-N) unless PID still runs.
sweep() {
    local folder pid
    rm -rf "${1:?}/data" "${1:?}/log"
    for folder in "$1"/private/*; do
        pid=${folder%-*}
        if alive "${pid##*-}"; then continue; fi
        # A test that was killed leaves its small disk mounted.
        if have mountpoint && mountpoint -q "$folder"; then umount --lazy "$folder" || continue; fi
        rm -rf "$folder"
    done
}

start() {
    local data port password
    require_servers
    data=$(server_folder "$FOLDER/postgres")
    sweep "$data"
    printf '%s\n' "$data" >"$FOLDER/data-folder"
    password=$(random_hex 16)
    postgres_init "$data/data" "$password"
    # Somebody may take the port between looking and listening: try others.
    for _ in 1 2 3 4 5; do
        port=$(free_port)
        if postgres_start "$data/data" "$port" "$data/log" \
            fsync=off full_page_writes=off wal_level=minimal max_wal_senders=0 \
            max_connections=400 shared_buffers=128MB max_wal_size=2GB log_min_messages=warning; then
            (umask 077 && printf 'ZYVEN_TEST_DATABASE_URL=postgres://zyven:%s@127.0.0.1:%s/postgres\n' \
                "$password" "$port" >"$(settings_file)")
            return
        fi
    done
    as_server_user tail -n 20 "$data/log" >&2 || true
    die "the tests' PostgreSQL server does not start; see $data/log"
}

stop() {
    local data
    [ -f "$FOLDER/data-folder" ] || return 0
    data=$(cat "$FOLDER/data-folder")
    postgres_stop "$data/data" immediate || true
    sweep "$data"
    rmdir "$data/private" "$data" 2>/dev/null || true
    rm -f "$(settings_file)" "$FOLDER/data-folder"
}

# Prints the watchdog's process id.
watchdog() {
    local pid
    pid=$(cat "$FOLDER/watchdog.pid" 2>/dev/null) || return 1
    alive "$pid" && ps -o args= -p "$pid" 2>/dev/null | grep -q 'test-services.sh watch' && printf '%s\n' "$pid"
}

stop_watch() {
    local pid
    if pid=$(watchdog); then kill "$pid" 2>/dev/null || true; fi
}

start_watch() {
    watchdog >/dev/null && return
    local new_session=""
    if have setsid; then new_session=setsid; fi
    $new_session nohup bash "$ZYVEN_ROOT/scripts/test-services.sh" watch </dev/null >/dev/null 2>&1 9>&- &
    echo $! >"$FOLDER/watchdog.pid"
}

# The watchdog's whole life.
watch() {
    local idle_s=0
    echo $$ >"$FOLDER/watchdog.pid"
    while :; do
        sleep 1
        is_running_cheaply || exit 0
        if anyone_left; then idle_s=0; else idle_s=$((idle_s + 1)); fi
        [ "$idle_s" -ge "$LINGER_S" ] || continue
        lock "$FOLDER/lock"
        # Somebody may have joined while we waited for the lock.
        if ! anyone_left; then
            stop
            exit 0
        fi
        unlock
        idle_s=0
    done
}

# Asked once a second: a file test, not a process.
is_running_cheaply() { [ -f "$(settings_file)" ]; }

case "${1:-}" in
join)
    lock "$FOLDER/lock"
    : >"$USERS/${2:?process id}"
    is_running || start
    start_watch
    cat "$(settings_file)"
    ;;
leave)
    lock "$FOLDER/lock"
    rm -f "$USERS/${2:?process id}"
    if ! anyone_left; then
        stop_watch
        stop
    fi
    ;;
env)
    is_running || die "the tests' PostgreSQL server is not running"
    cat "$(settings_file)"
    ;;
where)
    require_servers
    lock "$FOLDER/lock"
    user=$(server_user)
    printf 'postgres_bin=%s\n' "$(find_postgres_bin)"
    printf 'redis_server=%s\n' "$(find_redis_server)"
    printf 'server_uid=%s\n' "${user:+$(id -u "$user")}"
    printf 'server_gid=%s\n' "${user:+$(id -g "$user")}"
    printf 'folder=%s\n' "$(server_folder "$FOLDER/postgres")"
    ;;
watch) watch ;;
stop)
    lock "$FOLDER/lock"
    rm -f "$USERS"/*
    stop_watch
    stop
    ;;
*)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2
    exit 64
    ;;
esac
