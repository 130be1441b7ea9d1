# shellcheck shell=bash
# What every script of this folder shares: messages, locks, ports, and the unprivileged user.
#
# Sourced, never run. Works with bash 3.2 (macOS) and later; sets no traps and starts nothing.

# shellcheck disable=SC2034  # used by those who source this
ZYVEN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# Sets PROGRAM to the zyven that is to be tried: ZYVEN_TEST_BINARY, or what `cargo build` has made.
find_program() {
    PROGRAM=${ZYVEN_TEST_BINARY:-${CARGO_TARGET_DIR:-$ZYVEN_ROOT/target}/debug/zyven}
    [ -x "$PROGRAM" ] || die "$PROGRAM is missing; build it with: cargo build --bin zyven"
}

# Holds file $1 as an exclusive lock on descriptor 9 until the shell ends or closes it. Whatever is started in the
# background meanwhile must be given `9>&-`, or it keeps the lock.
lock() {
    exec 9>"$1"
    if have flock; then
        flock 9
    else
        # The lock belongs to the open file, so it outlives the perl that asked for it.
        perl -e 'open(my $f, ">&=", 9) or die; flock($f, 2) or die' || die "cannot lock $1"
    fi
}
unlock() { exec 9>&-; }

# Whether a process runs, whoever owns it. One that has ended but was not collected by its parent (a zombie: not
# every container's first process collects) does not.
alive() {
    local state
    [ -n "$1" ] || return 1
    if [ -d /proc/self ]; then
        state=$(sed -E 's/^.*\) (.).*/\1/' "/proc/$1/stat" 2>/dev/null) || return 1
    else
        state=$(ps -o stat= -p "$1" 2>/dev/null) || return 1
    fi
    case $state in "" | Z* | X*) return 1 ;; esac
}

# Runs out of patience after $1 tries of 50 ms; the rest is the command that must succeed.
await() {
    local tries=$1
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A free TCP port below the ephemeral range, so that nobody's outgoing connection borrows it while a server restarts.
free_port() {
    local port
    while :; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        port_is_taken "$port" || break
    done
    printf '%s\n' "$port"
}

# $1 random bytes in hexadecimal.
random_hex() { od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }
random_base64() { head -c "$1" /dev/urandom | base64 | tr -d '\n'; }

# The user that servers run as: PostgreSQL refuses root. Empty when we are not root and need nobody else.
server_user() {
    is_root || return 0
    if id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi
}

# Runs a command as the server user (see above), from a folder it can surely enter.
as_server_user() {
    local user group
    user=$(server_user)
    if [ -z "$user" ]; then
        "$@"
        return
    fi
    group=$(id -gn "$user")
    if have setpriv; then
        (cd / && setpriv --reuid "$user" --regid "$group" --clear-groups env HOME=/ "$@")
    elif have runuser; then
        (cd / && runuser -u "$user" -- env HOME=/ "$@")
    else
        # shellcheck disable=SC2016  # the inner shell expands these
        (cd / && su -s /bin/sh "$user" -c 'exec "$0" "$@"' -- "$@")
    fi
}

# Makes folder $1, owned by the server user and closed to others, and prints where it ended up: a checkout below a
# folder which that user cannot enter (/root, say) is answered with a folder of our own under /var/tmp.
server_folder() {
    local wanted=$1 user fallback
    mkdir -p "$wanted"
    user=$(server_user)
    if [ -z "$user" ]; then
        chmod 700 "$wanted"
        printf '%s\n' "$wanted"
        return
    fi
    chown "$user" "$wanted" && chmod 700 "$wanted"
    if as_server_user test -w "$wanted" 2>/dev/null; then
        printf '%s\n' "$wanted"
        return
    fi
    fallback="/var/tmp/zyven-$(printf '%s' "$wanted" | cksum | cut -d' ' -f1)"
    mkdir -m 700 "$fallback" 2>/dev/null && chown "$user" "$fallback"
    # Somebody else may have made a folder or a link of that name first.
    if [ -L "$fallback" ] || ! as_server_user test -O "$fallback"; then
        die "$fallback exists and is not ours; remove it"
    fi
    printf '%s\n' "$fallback"
}
