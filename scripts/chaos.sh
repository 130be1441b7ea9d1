#!/usr/bin/env bash
# `make chaos` and `make faults`: builds the program and runs tests/chaos against it, on servers of its own.
#
# Arguments go to the program (scripts/chaos.sh run --help). ZYVEN_TEST_PROFILE chooses the Cargo profile: dev for chaos,
# release for the table of single faults, unless it is set.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

cd "$ZYVEN_ROOT"
have cargo || die "cargo is missing; see https://rustup.rs"

profile=dev
if [ "${1:-}" = faults ]; then profile=release; fi
profile=${ZYVEN_TEST_PROFILE:-$profile}
cargo build --quiet --locked --profile "$profile" --bin zyven --bin zyven-chaos

folder=$profile
if [ "$profile" = dev ]; then folder=debug; fi
exec "${CARGO_TARGET_DIR:-target}/$folder/zyven-chaos" "$@"
