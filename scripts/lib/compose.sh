# shellcheck shell=bash
# The local stack in containers. Sourced by local.sh after settings.sh.

compose() {
    PORT_INGEST=$PORT_INGEST PORT_CONSOLE=$PORT_CONSOLE PORT_ECHO=$PORT_ECHO PORT_POSTGRES=$PORT_POSTGRES \
        docker compose --project-directory "$ZYVEN_ROOT" --project-name zyven "$@"
}

# Sets ENGINE (docker or native). A stack that was started one way is stopped that way.
choose_engine() {
    ENGINE=${ZYVEN_LOCAL_ENGINE:-}
    if [ "$1" != up ] && [ -f "$HOME_FOLDER/engine" ]; then
        ENGINE=$(cat "$HOME_FOLDER/engine")
    fi
    case $ENGINE in
    docker | native) ;;
    "") if have docker && docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
        ENGINE=docker
    else
        ENGINE=native
    fi ;;
    *) die "ZYVEN_LOCAL_ENGINE must be docker or native, not '$ENGINE'" ;;
    esac
    if [ "$1" = up ] && [ -f "$HOME_FOLDER/engine" ] && [ "$(cat "$HOME_FOLDER/engine")" != "$ENGINE" ]; then
        die "the stack was started with $(cat "$HOME_FOLDER/engine"); run make clean-data before changing to $ENGINE"
    fi
}

# Where the dispatcher finds the echo receiver. In containers that is an address: a name without a dot is refused
# as a destination (see compose.yaml).
echo_url() {
    if [ "$ENGINE" = docker ]; then echo http://10.247.0.90:8080/; else echo "http://127.0.0.1:$PORT_ECHO/"; fi
}

up_docker() {
    # Waits for every health check; the one-shot migration must have ended well before anything else starts.
    compose up --build --detach --wait --remove-orphans ||
        die "the containers do not get healthy; see make logs and docker compose -p zyven ps"
}

down_docker() { compose down --remove-orphans "$@"; }
