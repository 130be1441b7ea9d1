# shellcheck shell=bash
# Ports, secrets and settings of the local stack.
#
# Sourced after common.sh by local.sh, which defines HOME_FOLDER. Secrets are made at the first run and kept in
# .zyven/secrets until `make clean-data`; .zyven/env (local programs) and .zyven/compose/*.env (containers) are
# written anew from them at each `make up`. Settings of your own go into .zyven/extra.env, which nothing overwrites.

# shellcheck disable=SC2034  # used by those who source this
# With the ports that the running stack was started with, unless this is a new start.
read_ports() {
    local recorded=""
    if [ -f "$HOME_FOLDER/port-base" ]; then recorded=$(cat "$HOME_FOLDER/port-base"); fi
    PORT_BASE=${ZYVEN_LOCAL_PORT_BASE:-${recorded:-47000}}
    case $PORT_BASE in
    *[!0-9]* | "") die "ZYVEN_LOCAL_PORT_BASE must be a number, not '$PORT_BASE'" ;;
    esac
    if [ "$PORT_BASE" -lt 1024 ] || [ "$PORT_BASE" -gt 65000 ]; then
        die "ZYVEN_LOCAL_PORT_BASE must be between 1024 and 65000, not $PORT_BASE"
    fi
    PORT_INGEST=$((PORT_BASE + 80))
    PORT_CONSOLE=$((PORT_BASE + 85))
    PORT_ECHO=$((PORT_BASE + 90))
    PORT_DOORBELL=$((PORT_BASE + 91))
    PORT_EGRESS=$((PORT_BASE + 92))
    PORT_REDIS=$((PORT_BASE + 379))
    PORT_POSTGRES=$((PORT_BASE + 432))
    PROFILE=${ZYVEN_LOCAL_PROFILE:-release}
    PROGRAM=${CARGO_TARGET_DIR:-$ZYVEN_ROOT/target}/$(if [ "$PROFILE" = dev ]; then echo debug; else echo "$PROFILE"; fi)/zyven
}

probe_port() {
    case $1 in
    ingest) echo $((PORT_BASE + 100)) ;;
    relay) echo $((PORT_BASE + 101)) ;;
    dispatcher) echo $((PORT_BASE + 102)) ;;
    egress) echo $((PORT_BASE + 103)) ;;
    echo) echo $((PORT_BASE + 104)) ;;
    console) echo $((PORT_BASE + 105)) ;;
    *) die "no probe port for $1" ;;
    esac
}

write_secrets() {
    [ ! -s "$HOME_FOLDER/secrets" ] || return 0
    (
        umask 077
        cat >"$HOME_FOLDER/secrets.new" <<END
POSTGRES_PASSWORD=$(random_hex 24)
REDIS_PASSWORD=$(random_hex 24)
MASTER_KEYS=local:$(random_base64 32)
EGRESS_CREDENTIAL=$(random_hex 24)
END
    )
    mv "$HOME_FOLDER/secrets.new" "$HOME_FOLDER/secrets"
}

write_settings() {
    local running part
    if [ -f "$HOME_FOLDER/port-base" ] && running=$(cat "$HOME_FOLDER/port-base") && [ "$running" != "$PORT_BASE" ] &&
        ls "$RUN"/*.pid >/dev/null 2>&1; then
        die "the stack runs on ports from $running; run make down before choosing others"
    fi
    printf '%s\n' "$PORT_BASE" >"$HOME_FOLDER/port-base"
    write_secrets
    # shellcheck source=/dev/null
    . "$HOME_FOLDER/secrets"
    (
        umask 077
        native_settings >"$HOME_FOLDER/env"
        touch "$HOME_FOLDER/extra.env"
        mkdir -p "$HOME_FOLDER/compose"
        for part in postgres redis database roles ingest relay dispatcher queue keys egress; do
            compose_settings "$part" >"$HOME_FOLDER/compose/$part.env"
        done
    )
}

native_settings() {
    cat <<END
ZYVEN_DATABASE_URL=postgres://zyven:$POSTGRES_PASSWORD@127.0.0.1:$PORT_POSTGRES/zyven
ZYVEN_REDIS_URL=redis://:$REDIS_PASSWORD@127.0.0.1:$PORT_REDIS/
ZYVEN_MASTER_KEYS=$MASTER_KEYS
ZYVEN_EGRESS_CREDENTIAL=$EGRESS_CREDENTIAL
ZYVEN_INGEST_LISTEN=127.0.0.1:$PORT_INGEST
ZYVEN_CONSOLE_LISTEN=127.0.0.1:$PORT_CONSOLE
ZYVEN_CONSOLE_FRAME_ANCESTORS=http://localhost:3000 http://127.0.0.1:3000
ZYVEN_RELAY_DOORBELLS=127.0.0.1:$PORT_DOORBELL
ZYVEN_RELAY_DOORBELL_LISTEN=127.0.0.1:$PORT_DOORBELL
ZYVEN_EGRESS_LISTEN=127.0.0.1:$PORT_EGRESS
ZYVEN_EGRESS_PROXIES=127.0.0.1:$PORT_EGRESS
ZYVEN_EGRESS_ALLOW_CIDRS=127.0.0.1/32
END
}

# compose_settings SERVICE: the secrets that this container needs, and no others. Addresses are in compose.yaml.
compose_settings() {
    case $1 in
    postgres) printf 'POSTGRES_PASSWORD=%s\n' "$POSTGRES_PASSWORD" ;;
    redis) printf 'REDIS_PASSWORD=%s\n' "$REDIS_PASSWORD" ;;
    database) printf 'ZYVEN_DATABASE_URL=postgres://zyven:%s@postgres:5432/zyven\n' "$POSTGRES_PASSWORD" ;;
    roles) printf 'PGPASSWORD=%s\n' "$POSTGRES_PASSWORD" && role_passwords ;;
    ingest | relay | dispatcher) printf 'ZYVEN_DATABASE_URL=%s\n' "$(database_url "$1" postgres:5432)" ;;
    queue) printf 'ZYVEN_REDIS_URL=redis://:%s@redis:6379/\n' "$REDIS_PASSWORD" ;;
    keys) printf 'ZYVEN_MASTER_KEYS=%s\n' "$MASTER_KEYS" ;;
    egress) printf 'ZYVEN_EGRESS_CREDENTIAL=%s\n' "$EGRESS_CREDENTIAL" ;;
    esac
}

# role_password SERVICE: follows from the owner's password, so that there is nothing more to keep.
role_password() {
    local digest
    if have sha256sum; then digest=sha256sum; else digest="shasum -a 256"; fi
    printf '%s of %s' "$1" "$POSTGRES_PASSWORD" | $digest | cut -c 1-48
}

# What scripts/lib/roles-log-in.sql asks for.
role_passwords() {
    local role
    for role in ingest relay dispatcher operator; do
        printf 'ZYVEN_ROLE_PASSWORD_%s=%s\n' "$(printf %s "$role" | tr '[:lower:]' '[:upper:]')" "$(role_password "$role")"
    done
}

# database_url ROLE HOST:PORT
database_url() { printf 'postgres://zyven_%s:%s@%s/zyven' "$1" "$(role_password "$1")" "$2"; }

# Every service is connected as itself: it may do its own work and nothing else.
use_own_role() {
    # Whoever names another database in extra.env names the user as well.
    if grep -q '^ZYVEN_DATABASE_URL=' "$HOME_FOLDER/extra.env"; then return; fi
    case $1 in
    ingest | relay | dispatcher)
        ZYVEN_DATABASE_URL=$(database_url "$1" "127.0.0.1:$PORT_POSTGRES")
        export ZYVEN_DATABASE_URL
        ;;
    esac
}

# Secrets that a service has no use for stay out of its environment.
forget_what_is_not_for() {
    case $1 in
    ingest) unset ZYVEN_EGRESS_CREDENTIAL ;;
    relay) unset ZYVEN_MASTER_KEYS ZYVEN_EGRESS_CREDENTIAL ;;
    dispatcher) ;;
    egress) unset ZYVEN_DATABASE_URL ZYVEN_REDIS_URL ZYVEN_MASTER_KEYS ;;
    console | echo) unset ZYVEN_DATABASE_URL ZYVEN_REDIS_URL ZYVEN_MASTER_KEYS ZYVEN_EGRESS_CREDENTIAL ;;
    esac
}

# Puts the stack's settings into the environment.
load_settings() {
    local line
    [ -f "$HOME_FOLDER/env" ] || die "there is no local stack yet; run make up first"
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        "" | "#"*) ;;
        *) export "${line?}" ;;
        esac
    done < <(cat "$HOME_FOLDER/env" "$HOME_FOLDER/extra.env" 2>/dev/null)
}
