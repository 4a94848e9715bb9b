import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from roost import errors
from roost.client import Tls
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=roost"
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def target(certificate, peer):
    """The peer behind TLS."""
    peer.answers["ListModels"] = lambda request, context: pb.ListModelsResponse(models=[pb.Model(dim=7)])
    public, private = certificate
    credentials = grpc.ssl_server_credentials([(private.read_bytes(), public.read_bytes())])
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(peer, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_trusted_gateway_is_called_over_tls(target, certificate, call):
    (model,) = call(target, "models", options={"tls": Tls(authority=certificate[0])})
    assert model.dim == 7


@pytest.mark.parametrize("tls", [None, Tls()], ids=["in the clear", "not trusted"])
def test_without_trust_there_is_no_call(target, call, tls):
    with pytest.raises(errors.GatewayUnavailable):
        call(target, "models", options={"tls": tls})


def test_a_certificate_that_cannot_be_read_is_named(call, tmp_path):
    with pytest.raises(errors.BadSettings, match=r"absent\.pem"):
        call("127.0.0.1:1", "models", options={"tls": Tls(authority=tmp_path / "absent.pem")})
