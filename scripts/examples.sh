#!/usr/bin/env bash
# Runs the examples of docs/publishing.md and docs/receivers.md as they stand there: every publisher publishes to a real stack,
# every receiver verifies what arrives. Ends non-zero when one of them fails, or does not see what it should.
#
# Packages for Python, Node and Rust are fetched into .zyven/examples when this runs. Go is left out, with a word, where there is none
# and none can be installed. ZYVEN_TEST_BINARY names another program than target/debug/zyven.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/python.sh
. "$ZYVEN_ROOT/scripts/lib/python.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"
# shellcheck source=scripts/lib/private-stack.sh
. "$ZYVEN_ROOT/scripts/lib/private-stack.sh"

PACKAGES=$ZYVEN_ROOT/.zyven/examples

find_program
need_tools curl openssl
if ! have go && is_root && have apt-get; then apt_install golang-go; fi
node_packages "$PACKAGES/node" "$ZYVEN_ROOT/scripts/examples/package.json"
python_environment "$PACKAGES/python" requests==2.34.2 cloudevents==2.2.0 standardwebhooks==1.1.0 cryptography==50.0.2
trap leave_private_stack EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
private_stack examples

PROGRAM=$PROGRAM PROBE=http://$PROBE API=http://$INGEST DOCS=$ZYVEN_ROOT/docs PACKAGES=$PACKAGES PSQL=$(find_psql) \
    "$PYTHON_ENVIRONMENT/bin/python" "$ZYVEN_ROOT/scripts/examples/main.py"
