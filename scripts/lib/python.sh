# shellcheck shell=bash
# Python packages in a folder of their own, never in the system's.

# python_environment FOLDER PACKAGE==VERSION...: makes or updates a virtual environment and sets PYTHON_ENVIRONMENT.
python_environment() {
    PYTHON_ENVIRONMENT=$1
    shift
    local wanted="$*"
    if [ "$(cat "$PYTHON_ENVIRONMENT/packages" 2>/dev/null)" = "$wanted" ] &&
        "$PYTHON_ENVIRONMENT/bin/python" -c '' 2>/dev/null; then
        return
    fi
    rm -rf "$PYTHON_ENVIRONMENT"
    mkdir -p "$(dirname "$PYTHON_ENVIRONMENT")"
    if ! { have python3 && python3 -m venv "$PYTHON_ENVIRONMENT"; } >/dev/null 2>&1; then
        # Debian keeps venv in a package of its own.
        if is_root && have apt-get; then
            { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; } >&2
        fi
        rm -rf "$PYTHON_ENVIRONMENT"
        python3 -m venv "$PYTHON_ENVIRONMENT" ||
            die "Python 3 with venv is needed (Debian: apt-get install python3-venv)"
    fi
    "$PYTHON_ENVIRONMENT/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2 ||
        die "pip cannot install: $wanted"
    printf '%s\n' "$wanted" >"$PYTHON_ENVIRONMENT/packages"
}
