#!/usr/bin/env bash
# Real HTTP clients (curl, and Python's httpx and aiohttp) go through a real egress proxy to real receivers, and are served and
# refused as the policy has it. Ends non-zero when one of them sees anything else.
#
# The Python packages are fetched into .zyven/real-clients when this runs. ZYVEN_TEST_BINARY names another program than
# target/debug/zyven.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/python.sh
. "$ZYVEN_ROOT/scripts/lib/python.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"

find_program
need_tools curl openssl
python_environment "$ZYVEN_ROOT/.zyven/real-clients" httpx==0.28.1 aiohttp==3.13.2

FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=Zyven test' \
    -addext 'subjectAltName=DNS:hooks.example.com,IP:127.0.0.1' \
    -keyout "$FOLDER/key.pem" -out "$FOLDER/certificate.pem" 2>/dev/null || die "openssl cannot make a certificate"

PROGRAM=$PROGRAM FOLDER=$FOLDER EGRESS_PORT=$(free_port) PROBE_PORT=$(free_port) CREDENTIAL=$(random_hex 24) \
    "$PYTHON_ENVIRONMENT/bin/python" "$ZYVEN_ROOT/scripts/real-clients/main.py"
