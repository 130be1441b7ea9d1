#!/usr/bin/env bash
# Checks compose.yaml: by `docker compose config` where that plugin is installed (no engine is needed), otherwise against
# the Compose Specification's schema, which the PyPI package check-jsonschema carries. What neither sees (references,
# health checks that others wait for, secrets) is checked in any case by check-compose.py.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/python.sh
. "$ZYVEN_ROOT/scripts/lib/python.sh"

python_environment "$ZYVEN_ROOT/.zyven/check-compose" check-jsonschema==0.37.0 ruamel.yaml==0.18.16

if have docker && docker compose version >/dev/null 2>&1; then
    # The secrets' files are made by the first `make up`; a check must not need them.
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    mkdir -p "$copy/.zyven/compose"
    cp "$ZYVEN_ROOT/compose.yaml" "$copy"
    grep -oE '\.zyven/compose/[a-z]+\.env' "$copy/compose.yaml" | sort -u | while read -r file; do : >"$copy/$file"; done
    docker compose --project-directory "$copy" --file "$copy/compose.yaml" config --quiet
    say "compose.yaml: accepted by docker compose"
else
    "$PYTHON_ENVIRONMENT/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec "$ZYVEN_ROOT/compose.yaml"
    say "compose.yaml: valid by the Compose Specification's schema"
fi
"$PYTHON_ENVIRONMENT/bin/python" "$ZYVEN_ROOT/scripts/check-compose.py" "$ZYVEN_ROOT/compose.yaml"
