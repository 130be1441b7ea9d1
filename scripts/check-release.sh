#!/usr/bin/env bash
# Tries scripts/release.sh out on a copy of this checkout, with a stand-in for the program: what it refuses, what a dry run does, what
# is in the archive, and that the same commit and program make the same bytes.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
COPY=$WORK/copy
STAND_IN=$WORK/stand-in

release() { (cd "$COPY" && scripts/release.sh "$@"); }

commit() {
    git -C "$COPY" add --all
    git -C "$COPY" -c user.name=check -c user.email=check@example.com commit --quiet --no-verify --message "$1"
}

# refuses WORDS ARGUMENT...: it must fail, and say so in these words.
refuses() {
    local words=$1
    shift
    if release "$@" >"$WORK/said" 2>&1; then die "release.sh $* is not refused"; fi
    grep -qF "$words" "$WORK/said" || die "release.sh $* says '$(cat "$WORK/said")', not '$words'"
}

copy_checkout() {
    mkdir "$COPY"
    # The files as they are, whether committed or not.
    (cd "$ZYVEN_ROOT" && git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
        tar --null --files-from=- -cf -) | tar -xf - -C "$COPY"
    git -C "$COPY" init --quiet
    commit "a copy"
}

have git || die "git is missing"
copy_checkout
VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' "$COPY/Cargo.toml")
# shellcheck disable=SC2016  # the stand-in expands these
printf '#!/bin/sh\ncase $1 in --version) echo "zyven %s" ;; *) echo "# $*" ;; esac\n' "$VERSION" >"$STAND_IN"
chmod 755 "$STAND_IN"

refuses "must be like" one
refuses "not 99.0.0" 99.0.0
if ! grep -q "^## $VERSION" "$COPY/CHANGELOG.md"; then
    refuses "no section \"## $VERSION\"" "$VERSION"
    sed -i.original "s/^## Unreleased\$/## Unreleased\n\n## $VERSION (today)/" "$COPY/CHANGELOG.md"
    rm "$COPY/CHANGELOG.md.original"
    refuses "not committed" "$VERSION"
    commit "a section"
fi

release --dry-run --tag "$VERSION" 2>"$WORK/said"
grep -q "would tag .* as v$VERSION" "$WORK/said" || die "the dry run does not say what it would do"
[ ! -e "$COPY/target" ] || die "the dry run has written something"

printf '#!/bin/sh\necho zyven 0.0.0\n' >"$WORK/other"
chmod 755 "$WORK/other"
refuses "says it is zyven 0.0.0" --program "$WORK/other" "$VERSION"

# Again under another umask and with other times of files.
(umask 077 && release --program "$STAND_IN" --output "$WORK/first" "$VERSION" 2>/dev/null)
find "$COPY" -name '*.md' -exec touch {} +
(umask 022 && release --program "$STAND_IN" --output "$WORK/second" --tag "$VERSION" 2>/dev/null)
archive=$(cd "$WORK/first" && ls -- *.tar.gz)
cmp "$WORK/first/$archive" "$WORK/second/$archive" || die "the same commit makes two archives"
(cd "$WORK/first" && sha256sum --check --quiet SHA256SUMS) || die "SHA256SUMS does not fit"
for wanted in zyven LICENSE README.md completions/zyven.bash completions/_zyven completions/zyven.fish sql/roles.sql \
    deploy/kubernetes/base/kustomization.yaml deploy/systemd/zyven.target docs/operations/upgrading.md; do
    tar -tzf "$WORK/first/$archive" "${archive%.tar.gz}/$wanted" >/dev/null 2>&1 || die "the archive lacks $wanted"
done
if tar -tvzf "$WORK/first/$archive" | grep -vE '^(d|-)rw(x|-)r-(x|-)r-(x|-) 0/0 '; then die "the archive has odd owners or modes"; fi
git -C "$COPY" rev-parse --quiet --verify "refs/tags/v$VERSION" >/dev/null || die "--tag does not tag"
refuses "tagged already" "$VERSION"
say "scripts/release.sh: refuses, packs and tags as it says"
