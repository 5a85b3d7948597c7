"""The manifests: valid for Kubernetes, and agreed among themselves, with the image and with the server."""

from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import typer
import yaml

from shortlist.cli.serve import serve
from tests.deploy.files import KUBERNETES, MONITORING, arguments, document, documents

DEPLOYMENT = document("Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
LABELS = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
(CONTAINER,) = POD["containers"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("manifest", documents(KUBERNETES), ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_manifests_are_valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("folder", [KUBERNETES, MONITORING], ids=lambda f: f.name)
def test_every_file_is_listed(folder: Any) -> None:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    others = {"kustomization.yaml", "adapter-rules.yaml"}
    assert set(listed) == {p.name for p in folder.glob("*.yaml")} - others


def test_serve_listens_where_the_container_says() -> None:
    app = typer.Typer()
    app.command()(serve)
    options = typer.main.get_command(app).make_context("serve", ["repository", *CONTAINER["args"]]).params
    assert (options["host"], options["http"]) == ("0.0.0.0", False)
    assert {"grpc": options["grpc_port"], "metrics": options["metrics_port"]} == PORTS


def test_the_container_serves_the_instances_that_were_exported() -> None:
    assert "--instances" not in CONTAINER["args"]


def test_ports_are_named_alike_everywhere() -> None:
    used = {port["targetPort"] for port in document("Service")["spec"]["ports"]}
    used |= {port["port"] for rule in document("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    used |= {endpoint["port"] for endpoint in document("PodMonitor")["spec"]["podMetricsEndpoints"]}
    assert used == set(PORTS)


@pytest.mark.parametrize("probe", PROBES)
def test_probes_ask_the_grpc_port_and_wait_longer_than_the_canary(probe: str) -> None:
    asked = CONTAINER[probe]["exec"]["command"]
    assert asked[asked.index("--port") + 1] == str(PORTS["grpc"])
    assert CONTAINER[probe]["timeoutSeconds"] > float(asked[asked.index("--timeout") + 1])


def test_building_engines_fits_into_the_deadline_of_a_rollout() -> None:
    start = CONTAINER["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] < DEPLOYMENT["spec"]["progressDeadlineSeconds"]


def test_a_replica_is_killed_much_later_than_it_is_left_alone() -> None:
    ready, alive = (CONTAINER[p]["periodSeconds"] * CONTAINER[p]["failureThreshold"] for p in PROBES[1:])
    assert alive >= 5 * ready


@pytest.mark.parametrize(
    "selector",
    [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        document("Service")["spec"]["selector"],
        document("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        document("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        document("PodMonitor")["spec"]["selector"]["matchLabels"],
        POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ],
    ids=["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "spread"],
)
def test_selectors_match_the_pods(selector: dict[str, str]) -> None:
    assert selector
    assert selector.items() <= LABELS.items()


def test_clients_see_every_replica() -> None:
    assert document("Service")["spec"]["clusterIP"] == "None"


def test_the_autoscaler_owns_the_number_of_replicas() -> None:
    target = document("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    expected = {"apiVersion": DEPLOYMENT["apiVersion"], "kind": "Deployment", "name": DEPLOYMENT["metadata"]["name"]}
    assert target == expected
    assert "replicas" not in DEPLOYMENT["spec"]


def test_a_drained_node_never_takes_the_last_replica() -> None:
    allowed = document("PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert allowed < document("HorizontalPodAutoscaler")["spec"]["minReplicas"]


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_defines() -> None:
    (metric,) = document("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == adapter_rule()["name"]["as"]


def test_the_metric_is_microseconds_of_queueing_by_requests() -> None:
    query = adapter_rule()["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod="a"')
    parsed = promql_parser.parse(query)
    assert "nv_inference_queue_duration_us" in str(parsed.lhs)
    assert "nv_inference_request_success" in str(parsed.rhs)


def test_the_pod_meets_the_restricted_security_standard() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_pod_runs_as_the_user_of_the_image() -> None:
    assert f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}" == arguments("USER")


def test_every_mount_has_its_volume_and_every_claim_exists() -> None:
    claims = {d["metadata"]["name"] for d in documents(KUBERNETES) if d["kind"] == "PersistentVolumeClaim"}
    wanted = {v["persistentVolumeClaim"]["claimName"] for v in POD["volumes"] if "persistentVolumeClaim" in v}
    assert {m["name"] for m in CONTAINER["volumeMounts"]} == {v["name"] for v in POD["volumes"]}
    assert claims == wanted


def test_the_bundle_is_read_only_and_what_is_written_is_not() -> None:
    read_only = {m["mountPath"]: m.get("readOnly", False) for m in CONTAINER["volumeMounts"]}
    assert read_only == {"/bundle": True, "/models": False, "/cache": False, "/tmp": False, "/dev/shm": False}


def test_a_gpu_is_asked_for() -> None:
    assert CONTAINER["resources"]["limits"]["nvidia.com/gpu"] == 1


def adapter_rule() -> dict[str, Any]:
    """The only rule for prometheus-adapter."""
    (rule,) = yaml.safe_load((MONITORING / "adapter-rules.yaml").read_text())["rules"]
    assert isinstance(rule, dict)
    return rule
