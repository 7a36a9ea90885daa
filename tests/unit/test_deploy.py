"""The files in deploy/ say what the code does: names, ports, keys, metrics, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from limehub import errors
from limehub.config import Config, load
from limehub.config.url import BrokerUrl
from limehub.observe.metrics import families
from limehub.web.tokens import read_tokens
from tests.support.monitored import metric_names, reading

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "limehub.service"
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text()
ROOM = 20.0
"""Seconds that a stop may take beyond the grace time."""


def document(*parts: str) -> dict[str, Any]:
    found = yaml.safe_load(DEPLOY.joinpath(*parts).read_text())
    assert isinstance(found, dict)
    return found


# -- systemd --------------------------------------------------------------------------------------


def unit() -> dict[str, str]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return dict(parser["Service"])


def here(tmp_path: Path) -> Path:
    """The unit as it would be on this machine: with a command and a user that exist."""
    text = UNIT.read_text().replace("/opt/limehub/bin/limehub", sys.executable)
    text = re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.MULTILINE)
    file = tmp_path / "limehub.service"
    file.write_text(text)
    return file


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(here(tmp_path))]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in checked.stderr.splitlines() if "limehub.service" in line]
    assert (checked.returncode, ours) == (0, []), checked.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_the_unit_is_hardened_by_systemds_own_measure(tmp_path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20"]
    file = tmp_path / "limehub.service"
    file.write_text(UNIT.read_text())
    judged = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_the_unit_leaves_the_server_what_its_own_metrics_are_read_from() -> None:
    assert any("process_" in text for text in expressions())
    # Without /proc/stat, the boot time, prometheus_client gives none of them.
    assert unit().get("ProcSubset", "all") == "all"


def test_the_unit_waits_longer_than_a_stop_may_take() -> None:
    assert float(unit()["TimeoutStopSec"]) >= Config().event_handler.shutdown_grace + ROOM


def test_the_unit_restarts_for_all_exit_codes_but_those_that_a_person_must_mend() -> None:
    final = {errors.ConfigError, errors.PluginError, errors.TopologyMismatch}
    codes = {int(code) for code in unit()["RestartPreventExitStatus"].split()}
    assert codes == {error.exit_code for error in final}
    assert unit()["Restart"] == "on-failure"


def test_the_unit_is_told_by_the_server_when_it_is_ready() -> None:
    assert unit()["Type"] == "notify"
    assert float(unit()["WatchdogSec"]) > 0
    # The broker may be away for long before the first READY=1.
    assert unit()["TimeoutStartSec"] == "infinity"


# -- docker ---------------------------------------------------------------------------------------


def docker(instruction: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{instruction} (.*)$", joined, re.MULTILINE)


def test_the_image_is_built_in_two_stages_and_runs_as_nobody_special() -> None:
    assert len(docker("FROM")) == 2
    assert docker("USER") == ["10001:10001"]
    assert DOCKERFILE.index("\nUSER ") > DOCKERFILE.rindex("\nRUN ")


def test_the_image_starts_limehub_itself_so_that_it_gets_the_signals() -> None:
    assert json.loads(docker("ENTRYPOINT")[0]) == ["limehub"]
    assert json.loads(docker("CMD")[0]) == ["serve"]
    assert docker("STOPSIGNAL") == ["SIGTERM"]


def test_the_environment_of_the_image_is_one_that_limehub_takes(tmp_path: Path) -> None:
    found = dict(re.findall(r"(LIMEHUB_[A-Z_]+)=(\S+)", " ".join(docker("ENV"))))
    assert found
    file = tmp_path / "limehub.toml"
    file.write_text("")
    health = load(file, found).config.web.health_address
    assert health is not None
    (check,) = docker("HEALTHCHECK")
    assert f"http://127.0.0.1:{health.port}/healthz" in check
    assert str(health.port) in docker("EXPOSE")[0].split()


def test_the_health_check_of_the_image_is_a_program_that_runs() -> None:
    (check,) = docker("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")


def test_everything_that_the_image_copies_is_there_and_not_ignored() -> None:
    ignore = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for line in docker("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert copied == allowed
    assert all((REPOSITORY / source).exists() for source in copied)


# -- kubernetes -----------------------------------------------------------------------------------


def pod() -> dict[str, Any]:
    found: dict[str, Any] = document("kubernetes", "deployment.yaml")["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture
def configured(tmp_path: Path) -> Config:
    """The configuration of a pod: the ConfigMap, and the Secret where it is mounted."""
    secret = document("kubernetes", "secret.example.yaml")["stringData"]
    for name, text in secret.items():
        (tmp_path / name).write_text(text)
    mounted = "/run/secrets/limehub"
    toml = document("kubernetes", "configmap.yaml")["data"]["limehub.toml"]
    file = tmp_path / "limehub.toml"
    file.write_text(toml.replace(mounted, str(tmp_path)))
    environ = {
        each["name"]: each["value"].replace(mounted, str(tmp_path)) for each in container()["env"]
    }
    loaded = load(file, environ)
    assert loaded.warnings == ()
    return loaded.config


def test_a_pod_finds_its_broker_and_its_tokens_in_the_secret(configured: Config) -> None:
    secret = document("kubernetes", "secret.example.yaml")["stringData"]
    assert configured.events.connection_string == secret["connection-string"]
    assert configured.web.token_file is not None
    assert {each.role for each in read_tokens(configured.web.token_file)} == {"read", "operate"}


def test_the_ports_of_a_pod_are_those_that_it_listens_on(configured: Config) -> None:
    ports = {each["name"]: each["containerPort"] for each in container()["ports"]}
    web, health = configured.web.address, configured.web.health_address
    assert web is not None
    assert health is not None
    assert ports == {"web": web.port, "health": health.port}
    (service,) = document("kubernetes", "service.yaml")["spec"]["ports"]
    assert service["targetPort"] in ports
    notes = document("kubernetes", "deployment.yaml")["spec"]["template"]["metadata"]["annotations"]
    assert int(notes["prometheus.io/port"]) == web.port
    assert configured.web.metrics_public, "the annotations carry no token"


def test_probes_ask_the_listener_that_answers_while_a_handler_computes() -> None:
    asked = {
        name: container()[f"{name}Probe"]["httpGet"]
        for name in ("liveness", "readiness", "startup")
    }
    assert {each["port"] for each in asked.values()} == {"health"}
    assert asked["liveness"]["path"] == asked["startup"]["path"] == "/healthz"
    assert asked["readiness"]["path"] == "/readyz"


def test_a_pod_has_time_to_stop(configured: Config) -> None:
    grace = configured.event_handler.shutdown_grace
    assert pod()["terminationGracePeriodSeconds"] >= grace + ROOM


def test_a_pod_may_do_little() -> None:
    rights = container()["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert pod()["securityContext"]["runAsNonRoot"]
    assert str(pod()["securityContext"]["runAsUser"]) in docker("USER")[0]


def test_a_pod_mounts_nothing_that_it_does_not_have_and_can_write_its_state() -> None:
    volumes = {each["name"]: each for each in pod()["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in container()["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    file = Path(container()["args"][container()["args"].index("-c") + 1])
    assert "emptyDir" in volumes["state"]
    assert Path(mounts["state"]) == file.parent
    assert Path(mounts["config"]) == file


def test_services_and_budgets_select_the_pods() -> None:
    deployment = document("kubernetes", "deployment.yaml")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert document("kubernetes", "service.yaml")["spec"]["selector"] == labels
    budget = document("kubernetes", "poddisruptionbudget.yaml")["spec"]
    assert budget["selector"]["matchLabels"] == labels


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here")
def test_kubectl_builds_the_manifests() -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    kinds = {each["kind"] for each in yaml.safe_load_all(built.stdout)}
    assert kinds == {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service"}


def test_every_manifest_is_in_the_kustomization_or_an_example() -> None:
    listed = set(document("kubernetes", "kustomization.yaml")["resources"])
    files = {path.name for path in KUBERNETES.iterdir()} - {"kustomization.yaml"}
    assert files - listed == {"secret.example.yaml"}


def test_keda_scales_the_deployment_by_a_queue_that_exists() -> None:
    text = (DEPLOY / "keda" / "scaledobject.yaml").read_text()
    scaled, authentication = yaml.safe_load_all(text)
    deployment = document("kubernetes", "deployment.yaml")["metadata"]["name"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "rabbitmq"
    assert trigger["metadata"]["mode"] == "QueueLength"
    source = REPOSITORY / "plugins/solution-deal-totals/src/solution_deal_totals/__init__.py"
    (queue_name,) = re.findall(r'queue_name="(\w+)"', source.read_text())
    queue = f"lime.event_handler.solution-deal-totals.{queue_name}"
    assert trigger["metadata"]["queueName"] == queue
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    (reference,) = authentication["spec"]["secretTargetRef"]
    secret = document("kubernetes", "secret.example.yaml")
    assert reference["name"] == secret["metadata"]["name"]
    assert BrokerUrl.parse(secret["stringData"][reference["key"]]).vhost == "crm"


# -- grafana, prometheus --------------------------------------------------------------------------

OWN = re.compile(r"\blimehub_[a-z_]+")
LABELS = {
    sample.name: set(sample.labels) | {"instance", "job"}
    for family in families(reading())
    for sample in family.samples
}


def dashboard() -> dict[str, Any]:
    found = json.loads((DEPLOY / "grafana" / "limehub.json").read_text())
    assert isinstance(found, dict)
    return found


def alerts() -> list[dict[str, Any]]:
    (group,) = document("prometheus", "alerts.yaml")["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    variables = [v["definition"] for v in dashboard()["templating"]["list"] if "definition" in v]
    return [*panels, *variables, *(rule["expr"] for rule in alerts())]


def test_dashboard_and_alerts_name_only_metrics_that_exist() -> None:
    used = {name for text in expressions() for name in OWN.findall(text)}
    assert used - metric_names() == set()
    assert len(used) > 15


@pytest.mark.parametrize("expression", expressions())
def test_labels_in_expressions_are_labels_of_their_metric(expression: str) -> None:
    for name, matchers in re.findall(r"\b(limehub_[a-z_]+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)[=!]", matchers)) <= LABELS[name]
    grouped = {
        label.strip()
        for labels in re.findall(r"\bby \(([^)]*)\)", expression)
        for label in labels.split(",")
    }
    for name in OWN.findall(expression):
        assert grouped <= LABELS[name]


def test_the_panels_do_not_cover_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            assert x < 24
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    texts = rule["annotations"]
    assert texts.keys() == {"summary", "description"}
    labels = set(re.findall(r"\$labels\.(\w+)", " ".join(texts.values())))
    for name in OWN.findall(rule["expr"]):
        assert labels <= LABELS[name]


def test_the_scrape_configuration_asks_where_the_server_listens_by_default() -> None:
    (job,) = document("prometheus", "scrape.yaml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [Config().web.bind]}]
    assert job["metrics_path"] == "/metrics"
    assert f'up{{job="{job["job_name"]}"}} == 0' in [rule["expr"] for rule in alerts()]
