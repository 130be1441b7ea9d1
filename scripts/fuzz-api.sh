#!/usr/bin/env bash
# Sends a running server what its own description allows, and what it forbids: schemathesis (PyPI) reads /openapi.json, and looks at
# every answer. Ends non-zero when one of them is not as described: another status, another form, a 5xx, a method that is refused
# without Allow, an answer without a key, something taken that should be refused, or refused that should be taken.
#
# The server is real, as are its PostgreSQL and Redis; all of them listen on 127.0.0.1 only, and nothing is delivered: there is no
# relay and no dispatcher. SEED repeats a run, EXAMPLES is how many requests are made up for each operation, PHASES narrows the run
# (examples,coverage,fuzzing,stateful). schemathesis is fetched into .zyven/api-fuzz. ZYVEN_TEST_BINARY names another program than
# target/debug/zyven.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/python.sh
. "$ZYVEN_ROOT/scripts/lib/python.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"
# shellcheck source=scripts/lib/private-stack.sh
. "$ZYVEN_ROOT/scripts/lib/private-stack.sh"

# The same each time unless somebody wants another run: what CI finds, it finds again.
SEED=${SEED:-7}
EXAMPLES=${EXAMPLES:-25}
# Longest run, in seconds, several times what one takes: a server that hangs is noticed.
RUN_S_MAX=600

find_program
python_environment "$ZYVEN_ROOT/.zyven/api-fuzz" schemathesis==4.32.5

leave() {
    if [ -n "${INGEST_ID:-}" ]; then
        kill -TERM "$INGEST_ID" 2>/dev/null || true
        wait "$INGEST_ID" 2>/dev/null || true
    fi
    leave_private_stack
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
private_stack api-fuzz

"$PROGRAM" migrate >&2
KEY=$("$PROGRAM" admin create-tenant fuzz --json | sed -nE 's/.*"api_key" *: *"([^"]*)".*/\1/p')
[ -n "$KEY" ] || die "no tenant was made"
LOG=$STACK_FOLDER/ingest.log
# A batch goes to each of the hundreds of endpoints that are made here: with a thousand events it would be work for minutes. The document
# says what is set, so the bound is tried all the same.
export ZYVEN_INGEST_BATCH_EVENTS_MAX=8
"$PROGRAM" ingest >"$LOG" 2>&1 &
INGEST_ID=$!
is_ready() { "$PROGRAM" probe "http://$PROBE/readyz" >/dev/null 2>&1; }
await 400 is_ready || die "the API does not start: $(tail -n 5 "$LOG")"

status=0
cd "$STACK_FOLDER"
# The hooks find the key there; it is on no command line.
API_URL=http://$INGEST API_KEY=$KEY SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$ZYVEN_ROOT/scripts/api-fuzz timeout "$RUN_S_MAX" \
    "$PYTHON_ENVIRONMENT/bin/st" --config-file "$ZYVEN_ROOT/scripts/api-fuzz/schemathesis.toml" \
    run "http://$INGEST/openapi.json" ${PHASES:+--phases "$PHASES"} --seed "$SEED" --max-examples "$EXAMPLES" >&2 || status=$?
kill -0 "$INGEST_ID" 2>/dev/null || die "the API has ended: $(tail -n 20 "$LOG")"
if [ "$status" -ne 0 ]; then
    grep -E 'ERROR|WARN' "$LOG" | tail -n 20 >&2 || true
    die "schemathesis found something (exit code $status); SEED=$SEED EXAMPLES=$EXAMPLES make api-fuzz repeats it"
fi
say "api: every answer was as described"
