#!/usr/bin/env bash
# Lints the API's description of itself, as `zyven openapi` prints it: scripts/api-check/redocly.yaml says which rules hold, and why
# some do not. Ends non-zero at the first run in which the linter has anything to say.
#
# The linter (npm: @redocly/cli) is fetched into .zyven/api-check. ZYVEN_TEST_BINARY names another program than target/debug/zyven.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"
# shellcheck source=scripts/lib/private-stack.sh
. "$ZYVEN_ROOT/scripts/lib/private-stack.sh"

PACKAGES=$ZYVEN_ROOT/.zyven/api-check

find_program
node_packages "$PACKAGES" "$ZYVEN_ROOT/scripts/api-check/package.json"
DOCUMENT=$PACKAGES/openapi.json
# What is set on this machine is nobody's business: the document is that of the defaults.
env -i "$PROGRAM" openapi >"$DOCUMENT"
# Nothing is told to anybody, and nobody is asked for a newer version.
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true
"$PACKAGES/node_modules/.bin/redocly" lint --config "$ZYVEN_ROOT/scripts/api-check/redocly.yaml" --max-problems 50 "$DOCUMENT" >&2
say "api: the OpenAPI document is in order"
