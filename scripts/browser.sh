#!/usr/bin/env bash
# The console, and the API's reference, in a real Chromium, in front of real Zyven processes on a real PostgreSQL and Redis: logs in, looks at every page at
# 360 and 1600 pixels in light and dark, and does what there is to do. Ends non-zero when a page differs from its snapshot, breaks a
# rule of accessibility, overflows, or says an error.
#
# Chromium is installed where that is possible (Debian, as root); where there is none the check is skipped, and says so.
# ZYVEN_TEST_CHROMIUM names another one. The packages are fetched into .zyven/browser, where the pictures are afterwards, too.
# ZYVEN_TEST_UPDATE_SNAPSHOTS=yes writes tests/browser/snapshots anew. ZYVEN_TEST_BINARY names another program than target/debug/zyven.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"
# shellcheck source=scripts/lib/private-stack.sh
. "$ZYVEN_ROOT/scripts/lib/private-stack.sh"

PACKAGES=$ZYVEN_ROOT/.zyven/browser

find_chromium() {
    local name
    if [ -n "${ZYVEN_TEST_CHROMIUM:-}" ]; then
        printf '%s\n' "$ZYVEN_TEST_CHROMIUM"
        return
    fi
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if have "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

find_program
if ! find_chromium >/dev/null && is_root && have apt-get; then apt_install chromium || true; fi
if ! CHROMIUM=$(find_chromium); then
    say "SKIPPED: the console in a browser. There is no Chromium (Debian: apt-get install chromium; or set ZYVEN_TEST_CHROMIUM)"
    exit 0
fi
node_packages "$PACKAGES" "$ZYVEN_ROOT/tests/browser/package.json"
trap leave_private_stack EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
private_stack browser

# The console's probes beside those of `zyven all`.
CHROMIUM=$CHROMIUM API=http://$INGEST CONSOLE=http://$CONSOLE PROBE=http://$PROBE CONSOLE_PROBE=127.0.0.1:$(free_port) \
    PACKAGES=$PACKAGES PROGRAM=$PROGRAM SNAPSHOTS=$ZYVEN_ROOT/tests/browser/snapshots UPDATE=${ZYVEN_TEST_UPDATE_SNAPSHOTS:-} \
    node "$ZYVEN_ROOT/tests/browser/main.mjs"
