#!/usr/bin/env bash
# Sends GitHub's published webhook examples (npm: @octokit/webhooks-examples) through real Zyven processes on a real
# PostgreSQL and Redis; a receiver with the official Standard Webhooks library (npm: standardwebhooks) verifies every
# signature and compares every byte. Ends non-zero when anything is missing, altered or unverified.
#
# The packages are fetched into .zyven/real-input when this runs. ZYVEN_TEST_BINARY names another program than target/debug/zyven.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"
# shellcheck source=scripts/lib/private-stack.sh
. "$ZYVEN_ROOT/scripts/lib/private-stack.sh"

PACKAGES=$ZYVEN_ROOT/.zyven/real-input

find_program
node_packages "$PACKAGES" "$ZYVEN_ROOT/scripts/real-input/package.json"
trap leave_private_stack EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
private_stack real-input

API=http://$INGEST PROBE=http://$PROBE PACKAGES=$PACKAGES PROGRAM=$PROGRAM \
    node "$ZYVEN_ROOT/scripts/real-input/main.mjs"
