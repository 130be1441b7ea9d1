#!/usr/bin/env bash
# Builds the previous version of the program and prints its path, for tests that run two versions side by side:
#
#   previous-release.sh           the newest tagged release before this commit; prints nothing if there is none
#   previous-release.sh COMMIT    that commit
#
# Debug profile, in a worktree and a target folder of its own below target/previous; built once for each commit.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

cd "$ZYVEN_ROOT"
have git || die "git is missing: it knows the previous version"
have cargo || die "cargo is missing; see https://rustup.rs"

wanted=${1:-$(git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null || true)}
if [ -z "$wanted" ]; then
    say "there is no earlier release: no tag v* before this commit"
    exit 0
fi
commit=$(git rev-parse --verify --quiet "$wanted^{commit}") || die "there is no commit $wanted"

folder=$ZYVEN_ROOT/target/previous
program=$folder/zyven-$commit
if [ ! -x "$program" ]; then
    mkdir -p "$folder"
    lock "$folder/lock"
    say "building $wanted ($commit)"
    git worktree prune
    rm -rf "$folder/source"
    git worktree add --force --detach "$folder/source" "$commit" >&2
    (cd "$folder/source" && CARGO_TARGET_DIR=$folder/target cargo build --locked --bin zyven >&2 9>&-)
    cp "$folder/target/debug/zyven" "$program"
    git worktree remove --force "$folder/source"
    unlock
fi
printf '%s\n' "$program"
