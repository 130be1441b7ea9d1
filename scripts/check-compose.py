"""What a schema cannot see in compose.yaml: references, health checks that others wait for, secrets."""

import pathlib
import re
import sys

from ruamel.yaml import YAML

SERVICES = {"postgres", "redis", "migrate", "roles", "ingest", "relay", "dispatcher", "egress", "console", "echo"}
SECRET_NAME = re.compile(r"PASSWORD|MASTER_KEYS|CREDENTIAL|DATABASE_URL|REDIS_URL")
# One-shot containers end before anybody could ask for their health.
WITHOUT_HEALTH = {"migrate", "roles", "tools"}


def mistakes(stack, folder):
    services = stack["services"]
    for name in sorted(SERVICES - services.keys()):
        yield f"service {name} is missing"
    for name, service in services.items():
        if "healthcheck" not in service and name not in WITHOUT_HEALTH:
            yield f"{name} has no health check"
        for setting in service.get("environment", {}):
            if SECRET_NAME.search(setting):
                yield f"{name}: {setting} is a secret and belongs into an env_file"
        for file in service.get("env_file", []):
            if not file.startswith(".zyven/compose/"):
                yield f"{name}: env_file {file} is not made by scripts/local.sh"
        for other, terms in service.get("depends_on", {}).items():
            if other not in services:
                yield f"{name} depends on {other}, which is missing"
            elif terms["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                yield f"{name} waits for the health of {other}, which has no health check"
        for network in service.get("networks", []):
            if network not in stack["networks"]:
                yield f"{name} is in network {network}, which is missing"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            is_there = (folder / source).exists() if source.startswith("./") else source in stack["volumes"]
            if not is_there:
                yield f"{name} mounts {volume}, which is missing"
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                yield f"{name} publishes {port} beyond this machine"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        found = list(mistakes(YAML(typ="safe").load(file), pathlib.Path(sys.argv[1]).parent))
    for mistake in found:
        print(f"compose.yaml: {mistake}", file=sys.stderr)
    if found:
        sys.exit(1)
    print("compose.yaml: references, health checks and secrets are in order", file=sys.stderr)


main()
