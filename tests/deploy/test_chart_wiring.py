"""Every name in the chart leads to something: selectors, ports, claims, secrets, addresses, settings, times."""

from urllib.parse import urlsplit

import pytest

from roost_serving import health
from roost_serving.backends import triton
from roost_serving.settings import ServeSettings

EXISTING = {"model-repository", "models", "qdrant-key", "triton-admin", "registry", "roost-keys", "roost-tls"}
"""What the tested values say exists already."""


def test_every_selector_matches_the_pods_of_one_kind(documents, pods):
    for document in documents:
        if document["kind"] in {"Service", "Deployment", "StatefulSet", "PodDisruptionBudget"}:
            selector = document["spec"]["selector"]
            wanted = selector.get("matchLabels", selector).items()
            matched = [name for name, pod in pods.items() if wanted <= pod["metadata"]["labels"].items()]
            assert len(matched) == 1, document["metadata"]["name"]


def test_every_service_port_leads_to_a_container_port(documents, pods):
    for document in documents:
        if document["kind"] != "Service":
            continue
        spec = document["spec"]
        (pod,) = [p for p in pods.values() if spec["selector"].items() <= p["metadata"]["labels"].items()]
        ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"]: port["port"] for port in spec["ports"]}.items() <= ports.items()


def test_every_service_monitor_finds_exactly_one_service_and_its_port(documents):
    services = [doc for doc in documents if doc["kind"] == "Service"]
    for monitor in (doc["spec"] for doc in documents if doc["kind"] == "ServiceMonitor"):
        wanted = monitor["selector"]["matchLabels"].items()
        (service,) = [doc for doc in services if wanted <= doc["metadata"]["labels"].items()]
        assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_every_referenced_object_is_in_the_release_or_said_to_exist(documents, pods):
    names = {(doc["kind"], doc["metadata"]["name"]) for doc in documents}
    references = {reference for pod in pods.values() for reference in _references(pod["spec"])}
    assert {name for name in references - names if name[1] not in EXISTING} <= {("ServiceAccount", "default")}


def test_every_mount_has_its_volume(documents, pods):
    claims = {
        claim["metadata"]["name"]
        for doc in documents
        if doc["kind"] == "StatefulSet"
        for claim in doc["spec"]["volumeClaimTemplates"]
    }
    for name, pod in pods.items():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        mounts = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        assert volumes <= mounts <= volumes | claims, name


def test_every_set_of_pods_that_keeps_data_has_a_headless_service(documents):
    headless = {
        doc["metadata"]["name"]
        for doc in documents
        if doc["kind"] == "Service" and doc["spec"].get("clusterIP") == "None"
    }
    assert {doc["spec"]["serviceName"] for doc in documents if doc["kind"] == "StatefulSet"} <= headless


def test_the_gateway_can_read_the_settings_that_it_is_given(documents, monkeypatch):
    settings = _settings(documents, monkeypatch)
    assert (settings.host, settings.port, settings.http_port) == ("0.0.0.0", 50051, 8080)
    services = {
        (doc["metadata"]["name"], port["port"])
        for doc in documents
        if doc["kind"] == "Service"
        for port in doc["spec"]["ports"]
    }
    for url in (settings.backend, settings.store):
        parts = urlsplit(url)
        inside = (parts.hostname, parts.port) in services or parts.scheme in {"onnx", "edge"}
        assert inside or (parts.hostname or "").endswith(".svc"), url


def test_a_certificate_is_mounted_where_the_gateway_and_the_test_read_it(render, monkeypatch):
    documents = render({"gateway": {"tls": {"secret": "roost-tls", "mutual": True}}})
    settings = _settings(documents, monkeypatch)
    files = [settings.tls_certificate_file, settings.tls_key_file, settings.tls_callers_file]
    assert [str(path) for path in files] == [f"/etc/roost/tls/{name}" for name in ("tls.crt", "tls.key", "ca.crt")]
    (test,) = [doc for doc in documents if doc["kind"] == "Pod"]
    variables = {one["name"]: one["value"] for one in test["spec"]["containers"][0]["env"]}
    assert variables == {
        "ROOST_TLS_AUTHORITY": str(files[2]),
        "ROOST_TLS_CERTIFICATE": str(files[0]),
        "ROOST_TLS_KEY": str(files[1]),
    }


def test_keys_are_mounted_where_the_gateway_reads_them(render, monkeypatch):
    documents = render({"gateway": {"keysSecret": "roost-keys"}})
    settings = _settings(documents, monkeypatch)
    (gateway,) = [doc for doc in documents if doc["kind"] == "Deployment" and "gateway" in doc["metadata"]["name"]]
    pod = gateway["spec"]["template"]["spec"]
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "keys"]
    (volume,) = [one["secret"] for one in pod["volumes"] if one["name"] == "keys"]
    assert str(settings.keys_file) == f"{mount['mountPath']}/{volume['items'][0]['path']}"
    assert "subPath" not in mount  # a file mounted so would never change
    assert settings.open_health  # a kubelet's probes send no key


@pytest.mark.parametrize("owner", ["triton", "externalTriton"])
def test_tritons_key_is_mounted_where_the_gateway_reads_it(render, monkeypatch, owner):
    external = {"triton": {"enabled": False}, "externalTriton": {"url": "triton://far"}}
    values = {"triton": {}} if owner == "triton" else external
    values[owner]["adminSecret"] = "triton-admin"
    documents = render(values)
    settings = _settings(documents, monkeypatch)
    (gateway,) = [doc for doc in documents if doc["kind"] == "Deployment" and "gateway" in doc["metadata"]["name"]]
    pod = gateway["spec"]["template"]["spec"]
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "triton-key"]
    (volume,) = [one["secret"] for one in pod["volumes"] if one["name"] == "triton-key"]
    assert str(settings.triton_key_file) == f"{mount['mountPath']}/{volume['items'][0]['path']}"
    assert (volume["secretName"], volume["items"][0]["key"]) == ("triton-admin", "key")
    assert "subPath" not in mount


def test_a_pod_lives_until_its_gateway_has_drained(documents, pods, monkeypatch):
    settings = _settings(documents, monkeypatch)
    allowed = pods["demo-roost-gateway"]["spec"]["terminationGracePeriodSeconds"]
    assert settings.drain_seconds > 0
    assert allowed == settings.drain_seconds + settings.grace_seconds + 5


def test_only_readiness_depends_on_others_and_asks_for_a_health_service_that_exists(pods):
    (container,) = pods["demo-roost-gateway"]["spec"]["containers"]
    for name in ("startup", "liveness"):  # over HTTP, which no number of calls can fill
        assert container[f"{name}Probe"]["httpGet"] == {"port": "http", "path": "/livez"}
    if any(volume["name"] == "tls" for volume in pods["demo-roost-gateway"]["spec"]["volumes"]):
        assert container["readinessProbe"]["httpGet"] == {"port": "http", "path": "/readyz"}  # a kubelet has no TLS
    else:
        assert container["readinessProbe"]["grpc"] == {"port": 50051, "service": health.READINESS}


def test_a_gateway_may_start_for_longer_than_it_waits_for_triton(pods):
    (container,) = pods["demo-roost-gateway"]["spec"]["containers"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1.5 * max(600, triton.START_SECONDS)


def test_a_disruption_always_leaves_a_gateway(documents):
    gateways = {
        doc["metadata"]["name"]: doc["spec"] for doc in documents if doc["kind"] in {"Deployment", "StatefulSet"}
    }
    scalers = {doc["metadata"]["name"]: doc["spec"]["minReplicas"] for doc in documents if "Autoscaler" in doc["kind"]}
    for budget in (doc for doc in documents if doc["kind"] == "PodDisruptionBudget"):
        name = budget["metadata"]["name"]
        assert budget["spec"]["maxUnavailable"] < scalers.get(name, gateways[name].get("replicas", 0))


def test_an_autoscaler_is_not_fought_by_a_fixed_number_of_replicas(render):
    documents = render({"gateway": {"autoscaling": {"enabled": True}}})
    (scaler,) = [doc["spec"] for doc in documents if doc["kind"] == "HorizontalPodAutoscaler"]
    (target,) = [
        doc
        for doc in documents
        if (doc["kind"], doc["metadata"]["name"]) == ("Deployment", scaler["scaleTargetRef"]["name"])
    ]
    assert "replicas" not in target["spec"]


@pytest.mark.parametrize(("settings", "given"), [({}, True), ({"workers": 3}, False)])
def test_workers_follow_the_cpu_limit_unless_they_are_set(settings, given, render):
    documents = render({"gateway": {"settings": settings}})
    (gateway,) = [doc for doc in documents if doc["kind"] == "Deployment" and "gateway" in doc["metadata"]["name"]]
    variables = gateway["spec"]["template"]["spec"]["containers"][0].get("env", [])
    assert ("ROOST_SERVE_WORKERS" in {variable["name"] for variable in variables}) is given


def _settings(documents: list[dict], monkeypatch: pytest.MonkeyPatch) -> ServeSettings:
    (data,) = [
        doc["data"] for doc in documents if doc["kind"] == "ConfigMap" and doc["metadata"]["name"].endswith("-gateway")
    ]
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    return ServeSettings.load()


def _references(spec: dict):
    yield "ServiceAccount", spec["serviceAccountName"]
    for secret in spec.get("imagePullSecrets", []):
        yield "Secret", secret["name"]
    for volume in spec["volumes"]:
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
    for container in spec["containers"]:
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield "Secret", variable["valueFrom"]["secretKeyRef"]["name"]
