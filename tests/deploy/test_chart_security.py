"""No container of the chart may do more than it must, the test pod's included."""

import pytest

ANY_POD = {"namespaceSelector": {}}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def test_every_container_is_locked_down(pods):
    for name, pod in pods.items():
        spec = pod["spec"]
        for container in spec["containers"] + spec.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["runAsNonRoot"] is True, name
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name


def test_every_container_bounds_its_memory_and_can_write_to_tmp(pods):
    for name, pod in pods.items():
        for container in pod["spec"]["containers"]:
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert "/tmp" in writable, name
            assert "memory" in container["resources"]["limits"] or name.endswith("gateway"), name


def test_no_pod_has_a_token_or_variables_of_other_services(pods):
    for name, pod in pods.items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["enableServiceLinks"] is False, name
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name


def test_users_are_those_of_the_images_unless_the_platform_chooses(render):
    users = _users(render({}))
    assert users == {"demo-roost-gateway": 10001, "demo-roost-triton": 1000, "demo-roost-qdrant": 1000}
    unset = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
    chosen = _users(render({"gateway": unset, "triton": unset, "qdrant": unset}))
    assert set(chosen.values()) == {None}


def test_models_are_read_only_wherever_they_are(pods):
    mounts = [
        mount
        for pod in pods.values()
        for container in pod["spec"]["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == "models"
    ]
    assert mounts
    assert all(mount["readOnly"] for mount in mounts)


def test_no_secret_is_written_into_a_manifest(documents):
    assert not [doc for doc in documents if doc["kind"] == "Secret"]
    for document in documents:
        if document["kind"] == "ConfigMap":
            assert not [key for key in document["data"] if key.upper().endswith(("API_KEY", "PASSWORD", "TOKEN"))]


def test_each_policy_opens_exactly_the_ports_that_its_pods_serve_to_others(documents, pods):
    policies = {doc["metadata"]["name"]: doc["spec"] for doc in documents if doc["kind"] == "NetworkPolicy"}
    services = [doc["spec"] for doc in documents if doc["kind"] == "Service"]
    for name, policy in policies.items():
        ports = {port["name"]: port["containerPort"] for port in _container(pods[name])["ports"]}
        opened = {_number(port["port"], ports) for rule in policy["ingress"] for port in rule["ports"]}
        selected = [
            spec for spec in services if spec["selector"].items() == policy["podSelector"]["matchLabels"].items()
        ]
        served = {_number(port["targetPort"], ports) for spec in selected for port in spec["ports"]}
        assert opened == served, name
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}, name


def test_triton_and_qdrant_answer_the_gateway_alone_and_call_nobody(render):
    policies = _policies(render({}))
    gateway = policies["demo-roost-gateway"]["podSelector"]
    for part, port in {"triton": 8001, "qdrant": 6334}.items():
        policy = policies[f"demo-roost-{part}"]
        (rule,) = [rule for rule in policy["ingress"] if {"protocol": "TCP", "port": "grpc"} in rule["ports"]]
        assert rule["from"] == [{"podSelector": gateway}]
        assert "egress" not in policy
        assert port in {p["port"] for rule in policies["demo-roost-gateway"]["egress"] for p in rule["ports"]}


@pytest.mark.parametrize(
    ("values", "to_any_pod", "to_prometheus"),
    [
        ({}, [{"metrics"}, set()], [set(), set()]),
        ({"qdrant": {"existingSecret": "key"}}, [{"metrics"}, {"http"}], [set(), set()]),
        ({"networkPolicy": {"monitoring": [PROMETHEUS]}}, [set(), set()], [{"metrics"}, {"http"}]),
    ],
    ids=["by default", "with a key", "with named peers"],
)
def test_qdrants_rest_api_is_open_only_behind_a_key_or_to_named_peers(render, values, to_any_pod, to_prometheus):
    policies = _policies(render(values))
    triton_and_qdrant = [policies["demo-roost-triton"], policies["demo-roost-qdrant"]]
    assert [_opened(policy, ANY_POD) for policy in triton_and_qdrant] == to_any_pod
    assert [_opened(policy, PROMETHEUS) for policy in triton_and_qdrant] == to_prometheus


def test_no_values_open_tritons_or_qdrants_grpc_to_any_pod(documents):
    for name, policy in _policies(documents).items():
        if name.endswith(("triton", "qdrant")):
            assert "grpc" not in _opened(policy, ANY_POD), name


@pytest.mark.parametrize(
    ("backend", "store", "ports"),
    [
        ("triton://far", "qdrant://far", {8001, 6334}),
        ("triton://far:9001", "qdrant://far:443", {9001, 443}),
        ("triton://[fd00::1]", "qdrant://[fd00::1]:7000", {8001, 7000}),
        ("triton://10.0.0.7", "qdrant://node1", {8001, 6334}),
    ],
)
def test_the_gateway_may_leave_to_the_ports_of_external_servers(render, backend, store, ports):
    values = {
        "triton": {"enabled": False},
        "qdrant": {"enabled": False},
        "externalTriton": {"url": backend},
        "externalQdrant": {"url": store},
    }
    policy = next(doc["spec"] for doc in render(values) if doc["kind"] == "NetworkPolicy")
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53} | ports


def _policies(documents: list[dict]) -> dict[str, dict]:
    return {doc["metadata"]["name"]: doc["spec"] for doc in documents if doc["kind"] == "NetworkPolicy"}


def _opened(policy: dict, peer: dict) -> set[str]:
    """The ports of every rule that lets the peer in; a rule without `from` lets in everyone."""
    return {
        port["port"]
        for rule in policy["ingress"]
        if peer in rule.get("from", [ANY_POD, peer])
        for port in rule["ports"]
    }


def _users(documents: list[dict]) -> dict[str, int | None]:
    makers = [doc for doc in documents if doc["kind"] in {"Deployment", "StatefulSet"}]
    return {
        doc["metadata"]["name"]: doc["spec"]["template"]["spec"]["securityContext"].get("runAsUser") for doc in makers
    }


def _container(pod: dict) -> dict:
    (container,) = pod["spec"]["containers"]
    return container


def _number(port: str | int, names: dict[str, int]) -> int:
    return names[port] if isinstance(port, str) else port
