# shellcheck shell=bash
# Private PostgreSQL and Redis servers: finding the programs, installing them, starting and stopping.
#
# Sourced after common.sh. A server started here listens on 127.0.0.1 only, wants a password, and keeps
# everything in the folder it was given. A server that somebody else runs is never looked at.

POSTGRES_MAJOR_MIN=15
REDIS_VERSION_MIN=6.2

# Prints the folder of the first PostgreSQL installation that is new enough.
find_postgres_bin() {
    local folder major on_path
    on_path=$(command -v postgres || true)
    for folder in "${ZYVEN_LOCAL_POSTGRES_BIN:-}" \
        "${on_path:+$(dirname "$on_path")}" \
        "$(pg_config --bindir 2>/dev/null || true)" \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /Applications/Postgres.app/Contents/Versions/*/bin; do
        if ! [ -x "$folder/postgres" ] || ! [ -x "$folder/initdb" ] || ! [ -x "$folder/pg_ctl" ]; then continue; fi
        major=$("$folder/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
        if [ "$major" -ge "$POSTGRES_MAJOR_MIN" ]; then
            printf '%s\n' "$folder"
            return
        fi
    done
    return 1
}

# Prints the path of a redis-server (or valkey-server) that is new enough.
find_redis_server() {
    local program version
    for program in "${ZYVEN_LOCAL_REDIS_SERVER:-}" redis-server valkey-server \
        /opt/homebrew/bin/redis-server /usr/local/bin/redis-server; do
        program=$(command -v "${program:-none}") || continue
        version=$("$program" --version | sed -nE 's/.*v=([0-9]+\.[0-9]+).*/\1/p')
        if [ "$(printf '%s\n' "$REDIS_VERSION_MIN" "$version" | sort -t. -k1,1n -k2,2n | head -n 1)" = "$REDIS_VERSION_MIN" ]; then
            printf '%s\n' "$program"
            return
        fi
    done
    return 1
}

# psql may live beside a server that is not on PATH.
find_psql() {
    local folder
    if have psql; then command -v psql; return; fi
    folder=$(find_postgres_bin) && [ -x "$folder/psql" ] && printf '%s\n' "$folder/psql"
}

# Installs Debian packages without letting them start servers or make clusters of their own: the packages'
# programs are wanted here, a second PostgreSQL on port 5432 is not.
apt_install() {
    local policy=/usr/sbin/policy-rc.d ours=0 status=0
    say "installing: $*"
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        ours=1
    fi
    {
        apt-get update -qq &&
            case " $* " in *" postgresql "*)
                DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql-common &&
                    sed -i -E 's/^#?create_main_cluster.*/create_main_cluster = false/' \
                        /etc/postgresql-common/createcluster.conf
                ;;
            esac &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
    } >&2 || status=$?
    [ "$ours" -eq 0 ] || rm -f "$policy"
    return "$status"
}

# Makes sure that these programs are here, each from the Debian package of its name.
need_tools() {
    local tool
    for tool in "$@"; do
        if ! have "$tool" && is_root && have apt-get; then apt_install "$tool"; fi
        have "$tool" || die "$tool is needed (Debian: apt-get install $tool)"
    done
}

# Makes sure that both servers' programs are here, or says exactly what to install.
require_servers() {
    local missing=""
    find_postgres_bin >/dev/null || missing="postgresql"
    find_redis_server >/dev/null || missing="$missing redis-server"
    [ -n "$missing" ] || return 0
    if is_root && have apt-get; then
        # shellcheck disable=SC2086  # a list of package names
        apt_install $missing || die "apt-get could not install: $missing"
    fi
    find_postgres_bin >/dev/null || die "no PostgreSQL $POSTGRES_MAJOR_MIN or newer was found.
  Debian, Ubuntu:  sudo apt-get install postgresql
  Fedora:          sudo dnf install postgresql-server
  macOS:           brew install postgresql@17
  elsewhere:       set ZYVEN_LOCAL_POSTGRES_BIN to the folder that holds 'postgres' and 'initdb'"
    find_redis_server >/dev/null || die "no Redis $REDIS_VERSION_MIN or newer was found.
  Debian, Ubuntu:  sudo apt-get install redis-server
  Fedora:          sudo dnf install redis
  macOS:           brew install redis
  elsewhere:       set ZYVEN_LOCAL_REDIS_SERVER to the program's path"
}

# postgres_init DATA PASSWORD: a new cluster whose superuser is "zyven". DATA's parent belongs to the server user.
postgres_init() {
    local bin data=$1 password=$2 secret
    bin=$(find_postgres_bin)
    secret="$(dirname "$data")/initdb-password"
    # shellcheck disable=SC2016  # the inner shell expands $1
    printf '%s\n' "$password" | as_server_user sh -c 'umask 077; cat >"$1"' sh "$secret"
    as_server_user "$bin/initdb" --pgdata="$data" --username=zyven --pwfile="$secret" \
        --auth=scram-sha-256 --encoding=UTF8 --no-locale --no-sync >/dev/null ||
        die "initdb failed in $data"
    as_server_user rm -f "$secret"
}

# postgres_start DATA PORT LOG [setting=value ...]: returns when the server takes connections.
postgres_start() {
    local bin data=$1 port=$2 log=$3 options setting
    shift 3
    bin=$(find_postgres_bin)
    options="-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
    for setting in "$@"; do options="$options -c $setting"; done
    as_server_user "$bin/pg_ctl" start --pgdata="$data" --log="$log" --wait --timeout=60 --silent \
        --options="$options" >/dev/null 2>&1 9>&-
}

# postgres_start_as_usual DATA PORT LOG: with the settings of the local stack.
postgres_start_as_usual() {
    local usual="max_connections=200 shared_buffers=256MB max_wal_size=4GB"
    # One that was built without lz4 takes "on", its own compression.
    # shellcheck disable=SC2086  # a list of settings
    postgres_start "$@" $usual wal_compression=lz4 || postgres_start "$@" $usual wal_compression=on
}

postgres_is_running() {
    local bin
    bin=$(find_postgres_bin) || return 1
    as_server_user test -f "$1/PG_VERSION" 2>/dev/null &&
        as_server_user "$bin/pg_ctl" status --pgdata="$1" >/dev/null 2>&1
}

# postgres_stop DATA [fast|immediate]
postgres_stop() {
    local bin
    postgres_is_running "$1" || return 0
    bin=$(find_postgres_bin)
    as_server_user "$bin/pg_ctl" stop --pgdata="$1" --mode="${2:-fast}" --wait --timeout=60 --silent >/dev/null 2>&1
}

# redis_start FOLDER PORT PASSWORD: keeps its data, its log and its process id in FOLDER, which belongs to the server user.
redis_start() {
    # The password goes by file: a command line can be read by everybody.
    # shellcheck disable=SC2016  # the inner shell expands these
    redis_configuration "$@" | as_server_user sh -c 'umask 077; cat >"$1"' sh "$1/redis.conf"
    as_server_user "$(find_redis_server)" "$1/redis.conf" >/dev/null 9>&-
}

redis_configuration() {
    cat <<END
bind 127.0.0.1
port $2
requirepass $3
dir "$1"
logfile "$1/log"
pidfile "$1/pid"
daemonize yes
appendonly yes
appendfsync everysec
save ""
END
}
