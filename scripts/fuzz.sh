#!/usr/bin/env bash
# Runs the parsers' properties (tests/fuzz) under libFuzzer, each target for SECONDS_EACH seconds (60). Arguments name
# targets; without any, all of them run. New inputs are kept in fuzz/corpus, failing ones in fuzz/artifacts.
#
# Needs a nightly toolchain (rustup toolchain install nightly) and cargo-fuzz (cargo install cargo-fuzz). `make test` runs the
# same properties on the stable toolchain, on seeds and mutations of them.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

cd "$ZYVEN_ROOT"
have cargo || die "cargo is missing; see https://rustup.rs"
cargo +nightly --version >/dev/null 2>&1 || die "a nightly toolchain is needed: rustup toolchain install nightly"
cargo +nightly fuzz --version >/dev/null 2>&1 || die "cargo-fuzz is needed: cargo install cargo-fuzz"

if [ "$#" -eq 0 ]; then
    for program in fuzz/fuzz_targets/*.rs; do
        program=${program##*/}
        set -- "$@" "${program%.rs}"
    done
fi
for target in "$@"; do
    [ -d "fuzz/seeds/$target" ] || die "there is no target $target; see fuzz/fuzz_targets"
    mkdir -p "fuzz/corpus/$target"
    say "fuzz: $target for ${SECONDS_EACH:-60} s"
    # The first folder gets what is found; the seeds are only read. 16 KiB is more than any parser here takes.
    cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="${SECONDS_EACH:-60}" -max_len=16384 -verbosity=0 -print_final_stats=1
done
say "fuzz: no property is broken"
