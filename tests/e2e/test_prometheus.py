"""A real Prometheus scrapes the gateway."""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request

import pytest

import roost as package

PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian: prometheus)")


@pytest.fixture
def prometheus(tmp_path):
    """Starts a Prometheus on loopback that scrapes an address every 200 ms; gives its own address."""
    started = []

    def start(target: str) -> str:
        job = {"job_name": "roost", "scrape_interval": "200ms", "static_configs": [{"targets": [target]}]}
        config = tmp_path / "prometheus.json"  # JSON is YAML
        config.write_text(json.dumps({"scrape_configs": [job]}))
        command = [
            PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/tsdb",
            "--web.listen-address=127.0.0.1:0", "--log.level=info",
        ]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        address = ""
        for line in process.stderr:
            if found := re.search(r'msg="Listening on" address=(\S+)', line):
                address = found[1]
            if "Server is ready to receive web requests" in line:
                return address
        pytest.fail("prometheus ended before it listened")

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def ask(address: str, query: str) -> list[dict]:
    """What Prometheus answers to a query now."""
    parameters = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"http://{address}/api/v1/query?{parameters}", timeout=10) as answer:
        return json.load(answer)["data"]["result"]


@pytest.mark.timeout(120)
def test_a_scrape_by_prometheus_holds_what_was_done(repository, images, serve, prometheus):
    with serve("--backend", f"onnx://{repository}", "--store", "memory://") as gateway:
        with package.Client(gateway.address) as client:
            client.embed(sorted((images / "1").iterdir())[:5])
        address = prometheus(gateway.http_address)
        while not (found := ask(address, "roost_images_total{result='ok'}")):
            pass  # every question is answered at once; the scrape comes within its interval
        assert [(row["metric"]["model"], row["value"][1]) for row in found] == [("digits@1", "5")]
        (up,) = ask(address, "up{job='roost'}")
        assert up["value"][1] == "1"
        (slow,) = ask(address, "histogram_quantile(0.99, sum by (le) (roost_stage_seconds_bucket{stage='infer'}))")
        assert 0 < float(slow["value"][1]) < 30
