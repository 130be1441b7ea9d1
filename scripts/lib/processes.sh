# shellcheck shell=bash
# Processes of the local stack: started detached, known by a file, ended only when they are surely ours.
#
# Sourced after common.sh. $RUN holds one file per process, "PID START FINGERPRINT", and $LOGS one log each. A process id
# comes round again after a reboot or a long time, so a process counts as ours only with the start time we noted.

# What distinguishes this process from a later one of the same id: its start, as the kernel tells it.
process_start() {
    if [ -r "/proc/$1/stat" ]; then
        # The name (field 2) may hold blanks; after its closing parenthesis, the start is field 20.
        sed 's/^.*) //' "/proc/$1/stat" | cut -d' ' -f20
    else
        ps -o lstart= -p "$1" 2>/dev/null | tr -d ' '
    fi
}

# Prints the id of process NAME if it runs and is the one we started.
process_id() {
    local pid start
    [ -f "$RUN/$1.pid" ] || return 1
    read -r pid start _ <"$RUN/$1.pid" || return 1
    alive "$pid" && [ "$(process_start "$pid")" = "$start" ] && printf '%s\n' "$pid"
}

process_fingerprint() {
    local fingerprint
    read -r _ _ fingerprint <"$RUN/$1.pid" && printf '%s\n' "$fingerprint"
}

# Runs a command in a session of its own: Ctrl-C in this terminal is not meant for it.
in_own_session() {
    if have setsid; then exec setsid "$@"; fi
    # shellcheck disable=SC2016  # perl's variables, not ours
    exec perl -e 'use POSIX; POSIX::setsid(); exec @ARGV or die' "$@"
}

# process_start_detached NAME FINGERPRINT COMMAND...: the log is appended to; a long one is put aside first.
process_start_detached() {
    local name=$1 fingerprint=$2 pid
    shift 2
    if [ -n "$(find "$LOGS/$name.log" -size "+$LOG_KIB_MAX"k 2>/dev/null)" ]; then
        mv "$LOGS/$name.log" "$LOGS/$name.log.old"
    fi
    (in_own_session "$@") </dev/null >>"$LOGS/$name.log" 2>&1 9>&- &
    pid=$!
    printf '%s %s %s\n' "$pid" "$(process_start "$pid")" "$fingerprint" >"$RUN/$name.pid"
}

# process_stop NAME: SIGTERM, patience, SIGKILL. Harmless when it does not run.
process_stop() {
    local name=$1 pid
    if pid=$(process_id "$name"); then
        kill -TERM "$pid" 2>/dev/null || true
        if ! await $((STOP_S_MAX * 20)) process_is_gone "$name"; then
            say "$name did not end within $STOP_S_MAX s and is killed"
            kill -KILL "$pid" 2>/dev/null || true
            await 100 process_is_gone "$name" || die "$name (process $pid) cannot be killed"
        fi
    fi
    rm -f "$RUN/$name.pid"
}

process_is_gone() { ! process_id "$1" >/dev/null; }

# Names whoever listens on a port, as far as this system tells.
listener_of() {
    if have ss; then
        ss -Hltnp "sport = :$1" 2>/dev/null | sed -nE 's/.*users:\(\("([^"]+)",pid=([0-9]+).*/\1, process \2/p' | head -n 1
    elif have lsof; then
        lsof -nP -iTCP:"$1" -sTCP:LISTEN 2>/dev/null | awk 'NR == 2 { print $1 ", process " $2 }'
    fi
}
