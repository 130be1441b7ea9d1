#!/usr/bin/env bash
# Runs shellcheck over every script. Where it is missing it is installed when that is possible, and skipped otherwise.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

if ! have shellcheck && is_root && have apt-get; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq shellcheck; } >&2 || true
fi
if ! have shellcheck; then
    say "scripts: skipped, shellcheck is not installed"
    exit 0
fi
cd "$ZYVEN_ROOT"
files=$(find scripts .ci -type f \( -name '*.sh' -o -name run \) | sort)
# shellcheck disable=SC2086  # a list of files
shellcheck $files
say "scripts: $(printf '%s\n' "$files" | wc -l | tr -d ' ') files are in order"
