"""What neither a schema nor a linter sees in deploy/: that manifests and units fit together, and fit the program.

    check-deploy.py MANIFEST…      files of Kubernetes resources that make one installation
"""

import ipaddress
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVICES = {"ingest", "relay", "dispatcher", "egress", "console"}
# Served by shared/runtime/src/probes.rs.
PROBE_PATHS = {"/healthz", "/readyz"}
# Which settings say where a service listens, and over what.
LISTENING = {
    "ingest": {("ZYVEN_INGEST_LISTEN", "TCP")},
    "relay": {("ZYVEN_RELAY_DOORBELL_LISTEN", "UDP")},
    "dispatcher": set(),
    "egress": {("ZYVEN_EGRESS_LISTEN", "TCP")},
    "console": {("ZYVEN_CONSOLE_LISTEN", "TCP")},
    "migrate": set(),
}
# Who may open connections to whom; "public" is every address beyond the cluster. docs/operations/configuration.md, "Network".
REACHES = {
    "ingest": {("relay", 8091, "UDP"), ("postgresql", 5432, "TCP"), ("redis", 6379, "TCP")},
    "relay": {("postgresql", 5432, "TCP"), ("redis", 6379, "TCP")},
    "dispatcher": {("egress", 8092, "TCP"), ("postgresql", 5432, "TCP"), ("redis", 6379, "TCP")},
    "egress": {("public", 1, "TCP")},
    "console": {("ingest", 8080, "TCP")},
    "migrate": {("postgresql", 5432, "TCP")},
}
NAME_SERVERS = {("kube-dns", 53, "UDP"), ("kube-dns", 53, "TCP")}
# One address of every kind of network that is nobody's business, and some that are.
NEVER = """0.0.0.1 10.0.0.1 10.255.255.254 100.64.0.1 100.100.100.200 127.0.0.1 168.63.129.16 169.254.169.254 172.16.0.1
172.31.255.254 192.0.0.1 192.168.0.1 198.18.0.1 224.0.0.1 255.255.255.255 ::1 fc00::1 fd00:ec2::254 fe80::1 ::ffff:10.0.0.1
64:ff9b::a00:1 2001:db8::1 2002:a00:1::1 ff02::1""".split()
ALWAYS = "1.1.1.1 9.9.9.9 100.128.0.1 172.15.255.255 172.32.0.1 192.167.255.255 2606:4700::1111 2a00:1450::1".split()
# What stopping takes beside the grace time: the last results, and the margin the supervisor grants.
MARGIN_S = 8


def documented_defaults():
    rows = re.findall(r"^\| `(ZYVEN_[A-Z_]+)` \| `?([^`|]*)`? \|", (ROOT / "docs/operations/configuration.md").read_text(), re.M)
    return {name: default.strip() for name, default in rows}


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)?", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, None: 1, "m": 60, "h": 3600, "d": 86400}[unit]


def grace_s(service, settings):
    """How long a service may take to stop; the relay's is a constant (RELAY_GRACE), the console's likewise (GRACE)."""
    fixed = {"relay": 10, "console": 16}
    if service in fixed:
        return fixed[service]
    return seconds(settings[f"ZYVEN_{service.upper()}_GRACE"])


def component(resource):
    return resource["metadata"].get("labels", {}).get("app.kubernetes.io/component")


class Manifests:
    def __init__(self, resources):
        self.resources = resources
        self.workloads = {component(r): r for r in self.of("Deployment") + self.of("Job")}
        self.settings = documented_defaults()
        for config in self.of("ConfigMap"):
            self.settings.update(config["data"])

    def of(self, kind):
        return [resource for resource in self.resources if resource["kind"] == kind]

    def mistakes(self):
        for name in sorted(SERVICES - self.workloads.keys()):
            yield f"there is no Deployment of {name}"
        if self.of("Secret"):
            yield "a Secret is in the repository"
        for name, workload in self.workloads.items():
            yield from (f"{name}: {mistake}" for mistake in self.of_pod(name, workload["spec"]["template"]))
        yield from self.of_services()
        yield from self.of_budgets()
        yield from self.of_network()

    def of_pod(self, name, template):
        pod = template["spec"]
        (container,) = pod["containers"]
        if template["metadata"]["labels"].get("app.kubernetes.io/component") != name:
            yield "its pods are labelled as somebody else's"
        if pod.get("enableServiceLinks") is not False:
            yield "enableServiceLinks must be false, or a Service's variables could be taken for settings and refused"
        if container["args"] != [name]:
            yield f"it runs {container['args']}"
        if name != "migrate":
            yield from self.of_probes(container)
            wanted = grace_s(name, self.settings) + MARGIN_S
            if pod["terminationGracePeriodSeconds"] < wanted:
                yield f"it is killed after {pod['terminationGracePeriodSeconds']} s, and may take {wanted} s to stop"
        ports = {(port["containerPort"], port.get("protocol", "TCP")) for port in container.get("ports", [])}
        listening = {(int(self.settings[setting].rsplit(":")[-1]), protocol) for setting, protocol in LISTENING[name]}
        if name != "migrate":
            listening.add((int(self.settings["ZYVEN_PROBE_LISTEN"].rsplit(":")[-1]), "TCP"))
        if ports != listening:
            yield f"it listens on {sorted(listening)}, and its ports are {sorted(ports)}"
        for volume in pod.get("volumes", []):
            if volume.get("secret", {}).get("secretName") != f"zyven-{name}":
                yield f"it mounts {volume}, which is not its own Secret"
        mounted = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
        for variable in container.get("env", []):
            if variable["name"] == "ZYVEN_CONFIG_FILE" and str(pathlib.PurePath(variable["value"]).parent) not in mounted:
                yield f"{variable['value']} is mounted nowhere"

    def of_probes(self, container):
        for kind in ["startupProbe", "readinessProbe", "livenessProbe"]:
            request = container.get(kind, {}).get("httpGet", {})
            if request.get("path") not in PROBE_PATHS or request.get("port") != "probes":
                yield f"its {kind} asks {request}"
        if container["readinessProbe"]["httpGet"]["path"] != "/readyz" or container["livenessProbe"]["httpGet"]["path"] != "/healthz":
            yield "readiness is /readyz, life is /healthz: a process that waits for PostgreSQL needs no restart"

    def of_services(self):
        hosts = {}
        for service in self.of("Service"):
            name = service["spec"]["selector"]["app.kubernetes.io/component"]
            (container,) = self.workloads[name]["spec"]["template"]["spec"]["containers"]
            named = {port["name"]: port for port in container["ports"]}
            for port in service["spec"]["ports"]:
                target = named.get(port["targetPort"], {})
                if target.get("protocol", "TCP") != port.get("protocol", "TCP"):
                    yield f"Service {name}: {port} leads to no port of its pods"
                hosts[service["metadata"]["name"]] = port["port"]
        for setting in ["ZYVEN_RELAY_DOORBELLS", "ZYVEN_EGRESS_PROXIES", "ZYVEN_API_URL"]:
            host, port = self.settings[setting].removeprefix("http://").split(":")
            if hosts.get(host) != int(port):
                yield f"{setting} is {self.settings[setting]}, which is no Service"

    def of_budgets(self):
        protected = {r["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] for r in self.of("PodDisruptionBudget")}
        for deployment in self.of("Deployment"):
            if deployment["spec"]["replicas"] > 1 and component(deployment) not in protected:
                yield f"{component(deployment)} has no PodDisruptionBudget"

    def of_network(self):
        closed = [p for p in self.of("NetworkPolicy") if p["spec"]["podSelector"] == {} and "egress" not in p["spec"]]
        if not any(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} for policy in closed):
            yield "no policy closes everything first"
        for name, workload in self.workloads.items():
            labels = workload["spec"]["template"]["metadata"]["labels"]
            found = {reach for policy in self.of("NetworkPolicy") for reach in reaches(policy, labels)}
            elsewhere = {r for r in found if isinstance(r[0], frozenset)}
            wanted = REACHES[name] | NAME_SERVERS
            if name == "egress":
                for mistake in public_mistakes(elsewhere):
                    yield f"egress {mistake}"
                found = found - elsewhere | {("public", 1, "TCP")}
            elif elsewhere:
                # PostgreSQL and Redis by address: a single host each, nothing more.
                found -= elsewhere
                for blocks, port, protocol in elsewhere:
                    data = {5432: "postgresql", 6379: "redis"}.get(port)
                    if data and all(block.num_addresses == 1 for block, _ in blocks):
                        found.add((data, port, protocol))
                    else:
                        found.add((str(blocks), port, protocol))
            if found != wanted:
                yield f"{name} may reach {sorted(found - wanted, key=str)} and lacks {sorted(wanted - found, key=str)}"


def selects(selector, labels):
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In" or labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def reaches(policy, labels):
    """What this policy lets pods with these labels reach: (who, port, protocol); address blocks as a frozenset."""
    if not selects(policy["spec"]["podSelector"], labels):
        return
    for rule in policy["spec"].get("egress", []):
        blocks = frozenset(
            (ipaddress.ip_network(peer["ipBlock"]["cidr"]), tuple(map(ipaddress.ip_network, peer["ipBlock"].get("except", []))))
            for peer in rule["to"]
            if "ipBlock" in peer
        )
        who = [blocks] if blocks else []
        for peer in rule["to"]:
            if "podSelector" in peer:
                wanted = peer["podSelector"]["matchLabels"]
                who.append(wanted.get("app.kubernetes.io/component") or wanted.get("app.kubernetes.io/name") or wanted["k8s-app"])
        for port in rule["ports"]:
            for one in who:
                yield one, port["port"], port.get("protocol", "TCP")


def public_mistakes(reachable):
    if {port for _, port, _ in reachable} != {1}:
        yield "does not reach every port"

    def is_open(address):
        address = ipaddress.ip_address(address)
        return any(
            address in block and not any(address in closed for closed in excepted)
            for blocks, _, _ in reachable
            for block, excepted in blocks
            if block.version == address.version
        )

    for address in NEVER:
        if is_open(address):
            yield f"may reach {address}"
    for address in ALWAYS:
        if not is_open(address):
            yield f"may not reach {address}"


def unit_mistakes(folder):
    defaults = documented_defaults()
    shared = (folder / "zyven-.service.d/10-zyven.conf").read_text()
    limit = seconds(re.search(r"^TimeoutStopSec=(\S+)$", shared, re.M)[1])
    shared_names = set(re.findall(r"^(\w+)=", shared, re.M)) - {"Environment", "SystemCallFilter", "After", "Wants"}
    probes = set()
    for service in sorted(SERVICES):
        text = (folder / f"zyven-{service}.service").read_text()
        if f"\nExecStart=/usr/bin/zyven {service}\n" not in text:
            yield f"zyven-{service}.service runs something else"
        for name in sorted(shared_names & set(re.findall(r"^(\w+)=", text, re.M))):
            yield f"zyven-{service}.service: {name} has no effect, as 10-zyven.conf comes later"
        if grace_s(service, defaults) + MARGIN_S > limit:
            yield f"zyven-{service}.service is killed after {limit} s"
        probes.add(re.search(r"^Environment=ZYVEN_PROBE_LISTEN=127.0.0.1:(\d+)$", text, re.M)[1])
        socket = folder / f"zyven-{service}.socket"
        if socket.exists():
            listen = re.search(r"^ListenStream=(\S+)$", socket.read_text(), re.M)[1]
            if listen != defaults[f"ZYVEN_{service.upper()}_LISTEN"]:
                yield f"{socket.name} listens on {listen}, zyven {service} by default on {defaults[f'ZYVEN_{service.upper()}_LISTEN']}"
            if f"Requires={socket.name}" not in text:
                yield f"zyven-{service}.service does not require its socket"
        if f"zyven-{service}.service" not in (folder / "zyven.target").read_text():
            yield f"zyven.target does not want zyven-{service}.service"
    if len(probes) != len(SERVICES):
        yield "two services on one machine have the same port for probes"


def compose_mistakes():
    stack = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    defaults = documented_defaults()
    for service in sorted(SERVICES):
        limit = seconds(stack[service]["stop_grace_period"])
        if grace_s(service, defaults) + MARGIN_S > limit:
            yield f"compose.yaml: {service} is killed after {limit} s"


def main():
    resources = [resource for name in sys.argv[1:] for resource in yaml.safe_load_all(pathlib.Path(name).read_text())]
    found = [f"deploy/kubernetes: {mistake}" for mistake in Manifests(resources).mistakes()]
    found += [f"deploy/systemd: {mistake}" for mistake in unit_mistakes(ROOT / "deploy/systemd")]
    found += compose_mistakes()
    for mistake in found:
        print(mistake, file=sys.stderr)
    if found:
        sys.exit(1)


main()
