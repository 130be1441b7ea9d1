#!/usr/bin/env bash
# Checks, builds and packs a release: release.sh [options] VERSION
#
#   --dry-run         says what would be done, after looking at tree, version and changelog; builds and writes nothing
#   --program FILE    packs that program instead of checking everything and building one
#   --output FOLDER   where archive and SHA256SUMS go (target/releases/VERSION)
#   --tag             tags this commit vVERSION in the end; nothing is pushed
#
# The commit must be what is in the folder, Cargo.toml and deploy/ must say VERSION, and CHANGELOG.md must have a section "## VERSION".
# The archive has sorted names, no owners and the commit's time, so the same commit and program make the same bytes.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

# What is in the archive beside the program and its completions. Documents link to each other.
CONTENTS="LICENSE README.md CHANGELOG.md ARCHITECTURE.md CONTRIBUTING.md STYLE.md docs sql deploy monitoring"
DRY_RUN=no PROGRAM="" OUTPUT="" TAG=no VERSION=""

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2
    exit 64
}

read_arguments() {
    while [ "$#" -gt 0 ]; do
        case $1 in
        --dry-run) DRY_RUN=yes ;;
        --tag) TAG=yes ;;
        --program) PROGRAM=${2:?--program needs a file} && shift ;;
        --output) OUTPUT=${2:?--output needs a folder} && shift ;;
        -* | "") usage ;;
        *)
            [ -z "$VERSION" ] || usage
            VERSION=$1
            ;;
        esac
        shift
    done
    [[ $VERSION =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || die "VERSION must be like 1.2.3 or 1.2.3-rc.1, not '$VERSION'"
    OUTPUT=${OUTPUT:-$ZYVEN_ROOT/target/releases/$VERSION}
}

# All of it before anything is built: a build takes minutes.
check_tree() {
    local found
    [ -z "$(git status --porcelain)" ] || die "the folder has changes that are not committed: $(git status --porcelain | head -n 3 | tr '\n' ' ')"
    found=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
    [ "$found" = "$VERSION" ] || die "Cargo.toml is of version $found, not $VERSION"
    grep -q "^## ${VERSION//./\\.}\( \|\$\)" CHANGELOG.md || die "CHANGELOG.md has no section \"## $VERSION\""
    found=$(sed -n 's/.* newTag: \([^ ]*\) .*/\1/p' deploy/kubernetes/example/kustomization.yaml)
    [ "$found" = "$VERSION" ] || die "deploy/kubernetes/example is of version $found, not $VERSION"
    ! git rev-parse --quiet --verify "refs/tags/v$VERSION" >/dev/null || die "v$VERSION is tagged already"
}

# GNU tar, by whatever name: others cannot sort.
find_tar() {
    local program
    for program in gtar tar; do
        if have "$program" && "$program" --version 2>/dev/null | grep -q 'GNU tar'; then
            echo "$program"
            return
        fi
    done
    die "GNU tar is needed"
}

# Sets PROGRAM.
build() {
    local folder=$ZYVEN_ROOT/target/release-build
    have cargo || die "cargo is missing; see https://rustup.rs"
    make --no-print-directory ci
    # Where the sources and the crates lay must not be in the program. A folder of its own, as other flags compile everything anew.
    CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$folder SOURCE_DATE_EPOCH=$(commit_time) \
        RUSTFLAGS="--remap-path-prefix=$ZYVEN_ROOT=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
        cargo build --release --locked --bin zyven
    PROGRAM=$folder/release/zyven
}

commit_time() { git log -1 --format=%ct; }

# pack FOLDER: the archive's contents, in a folder of its name.
pack() {
    local name=$1 tar folder
    tar=$(find_tar)
    folder=$WORK/$name
    mkdir -p "$folder/completions"
    # shellcheck disable=SC2086  # a list of paths
    git archive HEAD -- $CONTENTS | "$tar" -x -C "$folder"
    cp "$PROGRAM" "$folder/zyven"
    # Line tables go, names of functions stay for backtraces. What is not a program of this machine is packed as it is.
    if have strip; then strip --strip-debug "$folder/zyven" 2>/dev/null || cp "$PROGRAM" "$folder/zyven"; fi
    chmod 755 "$folder/zyven"
    "$PROGRAM" completions bash >"$folder/completions/zyven.bash"
    "$PROGRAM" completions zsh >"$folder/completions/_zyven"
    "$PROGRAM" completions fish >"$folder/completions/zyven.fish"
    mkdir -p "$OUTPUT"
    "$tar" -c -C "$WORK" --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mode='u+rw,go-w,a+rX' \
        --mtime="@$(commit_time)" "$name" | gzip -9 --no-name >"$OUTPUT/$name.tar.gz"
    (cd "$OUTPUT" && sha256sum -- *.tar.gz >SHA256SUMS)
}

read_arguments "$@"
cd "$ZYVEN_ROOT"
have git || die "git is missing"
check_tree
archive=zyven-$VERSION-$(uname -m)-$(uname -s | tr '[:upper:]' '[:lower:]')
if [ "$DRY_RUN" = yes ]; then
    [ -n "$PROGRAM" ] || say "would run make ci and build zyven"
    say "would write $OUTPUT/$archive.tar.gz and SHA256SUMS"
    if [ "$TAG" = yes ]; then say "would tag $(git rev-parse --short HEAD) as v$VERSION"; fi
    exit 0
fi
[ -n "$PROGRAM" ] || build
[ "$("$PROGRAM" --version)" = "zyven $VERSION" ] || die "$PROGRAM says it is $("$PROGRAM" --version)"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
pack "$archive"
say "$OUTPUT/$archive.tar.gz"
if [ "$TAG" = yes ]; then
    git tag --annotate "v$VERSION" --message "Zyven $VERSION"
    say "tagged v$VERSION; publish it with: git push origin v$VERSION"
fi
