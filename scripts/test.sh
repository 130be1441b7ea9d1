#!/usr/bin/env bash
# `make test`: all tests, on a private PostgreSQL that is started here and stopped at the end (unless other test
# processes of this checkout still use it). Tests start Redis servers of their own.
#
# Arguments go to the test runner and narrow the run, e.g. scripts/test.sh -p zyven-queue; the checks with real input, real
# clients, the documents' examples, a real browser, and of the API against its description, are part of full runs only. They come first, so that the last lines are the
# test runner's.
#
# ZYVEN_TEST_POSTGRES=18 (or 17) and ZYVEN_TEST_REDIS=redis-6.2 (or valkey-9) run them on those versions, which are fetched;
# ZYVEN_LOCAL_POSTGRES_BIN and ZYVEN_LOCAL_REDIS_SERVER on programs of yours.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"
# shellcheck source=scripts/lib/python.sh
. "$ZYVEN_ROOT/scripts/lib/python.sh"
# shellcheck source=scripts/lib/server-packages.sh
. "$ZYVEN_ROOT/scripts/lib/server-packages.sh"

cd "$ZYVEN_ROOT"
have cargo || die "cargo is missing; see https://rustup.rs"

if [ -n "${ZYVEN_TEST_POSTGRES:-}" ]; then
    ZYVEN_LOCAL_POSTGRES_BIN=$(dirname "$(server_package "postgres-$ZYVEN_TEST_POSTGRES")")
    # Beside the server of the machine's version, which other tests of this checkout may be using.
    ZYVEN_TEST_FOLDER=$ZYVEN_ROOT/target/test-services-$ZYVEN_TEST_POSTGRES
    export ZYVEN_LOCAL_POSTGRES_BIN ZYVEN_TEST_FOLDER
fi
if [ -n "${ZYVEN_TEST_REDIS:-}" ]; then
    ZYVEN_LOCAL_REDIS_SERVER=$(server_package "$ZYVEN_TEST_REDIS")
    export ZYVEN_LOCAL_REDIS_SERVER
fi

stop_services() { scripts/test-services.sh leave $$ >/dev/null 2>&1 || true; }
trap stop_services EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Says what the tests run on, and fails if that is not what was asked for.
say_versions() {
    local postgres redis
    postgres=$("$(printf '%s\n' "$ZYVEN_TEST_MACHINE" | sed -n 's/^postgres_bin=//p')/postgres" --version)
    redis=$("$(printf '%s\n' "$ZYVEN_TEST_MACHINE" | sed -n 's/^redis_server=//p')" --version | sed -nE 's/^(Redis|Valkey) .*v=([0-9.]+).*/\1 \2/p')
    say "tests run on $postgres and $redis"
    case $postgres in *" ${ZYVEN_TEST_POSTGRES:-}"*) ;; *) die "that is not PostgreSQL $ZYVEN_TEST_POSTGRES" ;; esac
    case $(printf '%s' "$redis" | tr 'A-Z ' 'a-z-') in "${ZYVEN_TEST_REDIS:-}"*) ;; *) die "that is not $ZYVEN_TEST_REDIS" ;; esac
}

services=$(scripts/test-services.sh join $$)
while IFS= read -r setting; do export "${setting?}"; done <<<"$services"
# Asked once for all test processes.
ZYVEN_TEST_MACHINE=$(scripts/test-services.sh where)
export ZYVEN_TEST_MACHINE
say_versions

# These run the program itself, chaos also the one with crash points. With other features our own crates are compiled a second
# time, and no others.
case " ${*:---workspace} " in
*" --workspace "* | *zyven-acceptance* | *zyven-chaos*) cargo build --locked --bin zyven ;;
esac
case " ${*:---workspace} " in
*" --workspace "* | *zyven-chaos*) cargo build --locked --bin zyven-crash --features crash-points ;;
esac

if [ "$#" -eq 0 ]; then
    set -- --workspace
    # What was released before, for the tests that run two versions side by side; nothing as long as nothing was.
    ZYVEN_TEST_PREVIOUS_BINARY=${ZYVEN_TEST_PREVIOUS_BINARY:-$(scripts/previous-release.sh)}
    export ZYVEN_TEST_PREVIOUS_BINARY
    # They fetch packages: ZYVEN_TEST_REAL_INPUT=off is for machines without a network.
    if [ "${ZYVEN_TEST_REAL_INPUT:-on}" != off ]; then
        scripts/real-input.sh
        scripts/real-clients.sh
        scripts/examples.sh
        scripts/browser.sh
        scripts/check-api.sh
        scripts/fuzz-api.sh
    else
        say "SKIPPED, as ZYVEN_TEST_REAL_INPUT=off has it: real input, real clients, the documents' examples, the console in a browser, the API as it is described"
    fi
fi

# Not exec: the trap must run after it.
if cargo nextest --version >/dev/null 2>&1; then
    profile=default
    if [ -n "${CI:-}" ]; then profile=ci; fi
    cargo nextest run --locked --profile "$profile" "$@"
else
    cargo test --locked "$@"
fi
