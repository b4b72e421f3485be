"""The chart, as far as it can be checked without a cluster."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from loadtest.plan.scaling import FULL
from tests.support.custom_resources import check_custom_resource
from tests.support.helm import CHART, KUBERNETES, render, run_helm
from tests.support.project import PROJECT, help_of

VALUES = ("values.yaml", "values-gpu.yaml", "values-gpu-torch.yaml", "values-cpu.yaml")
FOREIGN = ("keda.sh/", "monitoring.coreos.com/")
"""Groups of objects whose schemas are not those of Kubernetes."""

OLDEST_KUBERNETES = re.findall(r'kubeVersion: ">=(1\.\d+)\.', (CHART / "Chart.yaml").read_text())[0]
PLATFORM = (PROJECT / "docs" / "platform.md").read_text()
TRACED = ("--set", "tracing.url=http://collector.monitoring:4318/v1/traces")

Object = dict[str, Any]


@pytest.fixture(scope="module", params=VALUES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    traced = TRACED if request.param == "values-gpu.yaml" else ()
    return render("--values", str(CHART / request.param), *traced)


@pytest.fixture(scope="module")
def objects_by_kind() -> dict[str, Object]:
    return {thing["kind"]: thing for thing in render()}


@pytest.mark.parametrize("values", VALUES)
def test_helm_finds_no_fault(values: str) -> None:
    done = run_helm("lint", "--strict", str(CHART), "--values", str(CHART / values))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, KUBERNETES])
def test_kubernetes_takes_every_object(objects: list[Object], version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    checked = [thing for thing in objects if not thing["apiVersion"].startswith(FOREIGN)]
    for thing in checked:
        kubernetes_validate.validate(thing, version, strict=True)
    assert len(checked) > 8


def test_the_promise_of_versions_is_kept_and_said() -> None:
    assert f"Kubernetes {OLDEST_KUBERNETES} or newer" in PLATFORM
    for version, refused in ((OLDEST_KUBERNETES, False), ("1.26", True)):
        done = run_helm("template", "earshot", str(CHART), "--kube-version", version)
        assert (done.returncode != 0) == ("chart requires kubeVersion" in done.stderr) == refused


def test_operators_take_their_objects(objects: list[Object]) -> None:
    checked = [thing for thing in objects if thing["apiVersion"].startswith(FOREIGN)]
    for thing in checked:
        check_custom_resource(thing)
    assert {"ServiceMonitor", "PrometheusRule"} <= {thing["kind"] for thing in checked}


FAULTS = {
    "a field that does not exist": ("ScaledObject", "spec.minReplicas", 2),
    "a value that is none of those": ("ScaledObject", "spec.fallback.behavior", "static!"),
    "a string for a number": ("ScaledObject", "spec.maxReplicaCount", "10"),
    "a number for a string": ("ScaledObject", "spec.triggers.0.metadata.threshold", 640),
    "a field of Kubernetes that does not exist": (
        *("ScaledObject", "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleup", {}),
    ),
    "no selector": ("ServiceMonitor", "spec.selector", None),
    "a time without unit": ("ServiceMonitor", "spec.endpoints.0.interval", "15"),
    "a rule without expression": ("PrometheusRule", "spec.groups.0.rules.0.expr", None),
}


@pytest.mark.parametrize(("kind", "path", "value"), FAULTS.values(), ids=FAULTS)
def test_operators_refuse_objects_with_a_fault(
    objects_by_kind: dict[str, Object], kind: str, path: str, value: Any
) -> None:
    thing = copy.deepcopy(objects_by_kind[kind])
    check_custom_resource(thing)
    *parents, name = path.split(".")
    parent: Any = thing
    for key in parents:
        parent = parent[int(key) if key.isdecimal() else key]
    if value is None:
        del parent[name]
    else:
        parent[name] = value
    with pytest.raises(jsonschema.ValidationError):
        check_custom_resource(thing)


def test_containers_are_confined(objects: list[Object]) -> None:
    pods = [pod for thing in objects if (pod := _pod(thing))]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]


def test_references_lead_somewhere(objects: list[Object]) -> None:
    """Selectors find pods, and volumes are those of the containers' mounts."""
    labels = [thing["spec"]["template"]["metadata"]["labels"] for thing in objects if _pod(thing)]
    for thing in objects:
        if thing["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            selector = _selector(thing)
            assert any(selector.items() <= each.items() for each in labels), thing["metadata"]
    services = [thing for thing in objects if thing["kind"] == "Service"]
    for monitor in (thing for thing in objects if thing["kind"] == "ServiceMonitor"):
        found = [
            s for s in services if _selector(monitor).items() <= s["metadata"]["labels"].items()
        ]
        assert [port["name"] for port in found[0]["spec"]["ports"]][-1:] == ["metrics"]
        assert len(found) == 1
    for pod in filter(None, map(_pod, objects)):
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} == volumes


def test_a_pod_outlives_its_drain(objects: list[Object]) -> None:
    [replicas] = [
        thing
        for thing in objects
        if thing["metadata"]["name"] == "earshot-replicas" and thing["kind"] == "Deployment"
    ]
    pod = replicas["spec"]["template"]["spec"]
    [drain] = [arg for arg in pod["containers"][0]["args"] if arg.startswith("--drain-s=")]
    assert pod["terminationGracePeriodSeconds"] > int(drain.partition("=")[2])


def test_the_server_has_the_options_that_it_is_given() -> None:
    share = ("--set", "server.chunkShare=1")
    objects = render("--values", str(CHART / "values-gpu.yaml"), *TRACED, *share)
    given = {
        (arg.partition("=")[0])
        for pod in filter(None, map(_pod, objects))
        for container in pod["containers"]
        if container["name"] == "triton"
        for arg in container["args"]
    }
    assert len(given) == 9
    assert given <= set(re.findall(r"--[a-z-]+", help_of("server")))


@pytest.mark.parametrize("values", ["values-gpu.yaml", "values-gpu-torch.yaml"])
def test_engines_are_built_by_a_command_and_images_that_exist(values: str) -> None:
    objects = render("--values", str(CHART / values))
    [job] = [thing for thing in objects if thing["kind"] == "Job"]
    [build] = _pod(job)["containers"]
    program, _, *options = build["args"]
    assert program == "export"
    assert {option.partition("=")[0] for option in options} <= set(
        re.findall(r"--[a-z-]+", help_of("export"))
    )
    [served] = [
        thing
        for thing in objects
        if thing["metadata"]["name"] == "earshot-replicas" and thing["kind"] == "Deployment"
    ]
    images = {build["image"], _pod(served)["containers"][0]["image"]}
    targets = re.findall(r"^FROM \S+ AS (\S+)", (CHART.parent / "Dockerfile").read_text(), re.M)
    assert {image.partition(":")[0].removeprefix("earshot-") for image in images} <= set(targets)
    assert len({image.partition(":")[2] for image in images}) == 1


def test_programs_are_exported_and_served_by_one_torch() -> None:
    values = yaml.safe_load((CHART / "values-gpu-torch.yaml").read_text())
    [torch] = re.findall(r"^torch==(\S+)", (PROJECT / "constraints.txt").read_text(), re.M)
    [python] = re.findall(
        r"^ARG PYTHON_TAG=(\d+\.\d+)-", (CHART.parent / "Dockerfile").read_text(), re.M
    )
    assert values["image"]["tag"] == f"{torch}-py{python}"


def test_replicas_reach_the_collector_of_traces_and_nothing_else() -> None:
    def egress(*options: str) -> list[Object]:
        [policy] = [
            thing
            for thing in render("--show-only", "templates/network.yaml", *options)
            if thing["metadata"]["name"] == "earshot-replicas"
        ]
        return policy["spec"].get("egress", [])

    assert egress() == []
    collectors, names = egress(*TRACED)
    [peer] = collectors["to"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert {port["port"] for port in names["ports"]} == {53}


def test_scaling_leaves_the_count_to_keda() -> None:
    def replicas(*options: str) -> int | None:
        [deployment] = [
            thing
            for thing in render("--show-only", "templates/replicas.yaml", *options)
            if thing["kind"] == "Deployment"
        ]
        return deployment["spec"].get("replicas")

    assert replicas() is None
    assert replicas("--set", "scaling.enabled=false") == 2


def test_the_queries_of_the_scaling_are_those_of_the_tested_rules() -> None:
    [scaled] = render("--show-only", "templates/scaling.yaml")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert len(queries) == 2
    tested = (PROJECT / "tests" / "deploy" / "rules" / "alerts.test.yaml").read_text()
    for query in queries:
        assert query in tested
    assert queries[1].endswith(f"> {FULL})")


def test_a_canary_gets_new_streams_beside_the_others() -> None:
    objects = render("--set", "canary.replicas=1,canary.path=next")
    stable, canary = (
        thing
        for thing in objects
        if thing["metadata"]["name"].startswith("earshot-replicas")
        and thing["kind"] == "Deployment"
    )
    [service] = [
        thing
        for thing in objects
        if thing["kind"] == "Service" and thing["metadata"]["name"] == "earshot-replicas"
    ]
    for deployment in (stable, canary):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
    assert (
        not stable["spec"]["selector"]["matchLabels"].items()
        <= canary["spec"]["template"]["metadata"]["labels"].items()
    )
    assert "--repository=/models/next" in _pod(canary)["containers"][0]["args"]


@pytest.mark.parametrize(
    ("values", "flags"),
    [("", []), ("server: { chunkShare: 0 }", ["=0"]), ("server: { chunkShare: 0.3 }", ["=0.3"])],
)
def test_the_share_is_the_server_s_own_unless_it_is_given(
    values: str, flags: list[str], tmp_path: Path
) -> None:
    """Its default knows whether the models can keep it."""
    (tmp_path / "values.yaml").write_text(values)
    given = ("--values", str(tmp_path / "values.yaml"))
    objects = render("--show-only", "templates/replicas.yaml", *given)
    [replicas] = [thing for thing in objects if thing["kind"] == "Deployment"]
    arguments = _pod(replicas)["containers"][0]["args"]
    assert [x for x in arguments if "chunk-share" in x] == [f"--chunk-share{x}" for x in flags]


REFUSED = {
    "models.claim=": "models.claim",
    "models.chunkMs=500": "models.chunkMs",
    "gpu.resource=amd.com/gpu": "gpu.resource",
    "server.chunkShare=0.01": "server.chunkShare",
    "scaling.minReplica=3": "minReplica is not allowed",
    "scaling.minReplicas=20": "expected minReplicas at most maxReplicas, got 20 and 10",
    "scaling.fullness=0.95": "scaling.fullness",
    "scaling.threshold=900": "expected a threshold of at most streamsPerReplica",
    "monitoring.enabled=false": "scaling.enabled needs monitoring.enabled",
    "envoy.tls.clientCertificates=true": "needs envoy.tls.secret",
    "envoy.keysSecret=keys": "keys are sent in plain text",
    "canary.replicas=1": "canary.replicas needs canary.tag or canary.path",
    "tracing.url=collector:4318": "tracing.url",
    "tracing.url=http://collector/v1/traces,tracing.cidr=203.0.113.7/99": "tracing.cidr",
    "tracing.cidr=203.0.113.7/32": "tracing.cidr needs tracing.url",
    "gpu.enabled=false,models.build.enabled=true": "engines are built on the GPU",
}


@pytest.mark.parametrize(("values", "message"), REFUSED.items(), ids=REFUSED)
def test_values_that_cannot_work_are_refused_in_words(values: str, message: str) -> None:
    done = run_helm(
        "template", "earshot", str(CHART), "--kube-version", KUBERNETES, "--set", values
    )
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    ("values", "peer"),
    [
        ((), {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}),
        (("--set", "tracing.cidr=203.0.113.7/32"), {"ipBlock": {"cidr": "203.0.113.7/32"}}),
    ],
)
def test_replicas_may_call_the_collector_alone(values: tuple[str, ...], peer: Object) -> None:
    policies = {
        thing["metadata"]["name"]: thing["spec"]
        for thing in render(*TRACED, *values)
        if thing["kind"] == "NetworkPolicy"
    }
    collector, names = policies["earshot-replicas"]["egress"]
    assert collector == {"to": [peer]}
    assert [port["port"] for port in names["ports"]] == [53, 53]


def test_every_value_is_in_the_schema() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert _paths(values) == _schema_paths(schema) - {"global"}


def _paths(values: Object, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        path = f"{prefix}{name}"
        nested = isinstance(value, dict) and name not in OPEN
        found |= _paths(value, f"{path}.") if nested else {path}
    return found


OPEN = ("requests", "limits", "labels", "dashboardLabels", "annotations", "global")
"""Values that hold what Kubernetes takes."""


def _schema_paths(schema: Object, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in schema["properties"].items():
        path = f"{prefix}{name}"
        nested = "properties" in value and name not in OPEN
        found |= _schema_paths(value, f"{path}.") if nested else {path}
    return found


def _pod(thing: Object) -> Object:
    return thing.get("spec", {}).get("template", {}).get("spec", {})


def _selector(thing: Object) -> Object:
    spec = thing["spec"]
    selector = spec.get("selector") or spec.get("podSelector")
    return selector.get("matchLabels", selector)
