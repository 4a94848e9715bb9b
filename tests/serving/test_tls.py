"""TLS and mutual TLS: who is let in, who is not, and certificates that change while the gateway runs."""

import asyncio
import datetime
import ipaddress
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from roost.client import AsyncClient, Tls
from roost.errors import BadSettings, GatewayUnavailable
from roost_serving.server import serving
from roost_serving.settings import ServeSettings

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Signs certificates and writes them as PEM files."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def made(cls, folder: Path) -> "Authority":
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {folder.name}")])
        builder = _builder(name, name, key.public_key(), ends=10 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = cls(folder, key, builder.sign(key, hashes.SHA256()))
        made.file.write_bytes(made.certificate.public_bytes(serialization.Encoding.PEM))
        return made

    @property
    def file(self) -> Path:
        return self.folder / "authority.pem"

    def sign(self, name: str, *, ends: datetime.timedelta = DAY, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """A certificate for an address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self.certificate.subject, key.public_key(), ends=ends)
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        signed = builder.add_extension(addresses, critical=False).sign(self.key, hashes.SHA256())
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def _builder(subject, issuer, public, *, ends: datetime.timedelta) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 5 * DAY)
        .not_valid_after(now + ends)
    )


@pytest.fixture
def ours(tmp_path) -> Authority:
    return Authority.made(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path) -> Authority:
    return Authority.made(tmp_path / "theirs")


def over_tls(settings: ServeSettings, files: tuple[Path, Path], callers: Path | None = None) -> ServeSettings:
    return settings.model_copy(
        update={"tls_certificate_file": files[0], "tls_key_file": files[1], "tls_callers_file": callers}
    )


async def models(address: str, tls: Tls | None) -> list[str]:
    async with AsyncClient(address, tls=tls, timeout=10) as client:
        return sorted(model.name for model in await client.models())


async def test_a_client_that_trusts_the_authority_is_answered_and_others_see_nothing(settings, ours, theirs):
    async with serving(over_tls(settings, ours.sign("gateway"))) as running:
        assert await models(running.address, Tls(authority=ours.file)) == ["digits", "plain"]
        for tls in (None, Tls(), Tls(authority=theirs.file)):
            with pytest.raises(GatewayUnavailable):
                await models(running.address, tls)


@pytest.mark.parametrize("given", [{"ends": -DAY}, {"address": "127.0.0.2"}], ids=["expired", "of another address"])
async def test_a_client_refuses_a_gateway_s_certificate(settings, ours, given):
    async with serving(over_tls(settings, ours.sign("gateway", **given))) as running:
        with pytest.raises(GatewayUnavailable):
            await models(running.address, Tls(authority=ours.file))


async def test_with_mutual_tls_only_callers_of_the_authority_are_let_in(settings, ours, theirs):
    def shows(files: tuple[Path, Path]) -> Tls:
        return Tls(authority=ours.file, certificate=files[0], key=files[1])

    async with serving(over_tls(settings, ours.sign("gateway"), callers=ours.file)) as running:
        assert await models(running.address, shows(ours.sign("shop"))) == ["digits", "plain"]
        refused = [Tls(authority=ours.file), shows(theirs.sign("shop")), shows(ours.sign("old", ends=-DAY))]
        for tls in refused:
            with pytest.raises(GatewayUnavailable):
                await models(running.address, tls)


async def test_a_changed_certificate_is_taken_without_a_restart(settings, ours, theirs, caplog):
    public, private = ours.sign("gateway")
    async with serving(over_tls(settings, (public, private))) as running:
        assert await models(running.address, Tls(authority=ours.file))
        for changed, now in zip(theirs.sign("gateway"), (public, private), strict=True):
            now.write_bytes(changed.read_bytes())
        assert await models(running.address, Tls(authority=theirs.file))
        with pytest.raises(GatewayUnavailable):
            await models(running.address, Tls(authority=ours.file))
        private.write_text("no key")
        assert await models(running.address, Tls(authority=theirs.file))
        assert "the certificate stays as it was" in caplog.text


async def test_when_the_certificate_ends_is_a_metric(settings, ours):
    async with serving(over_tls(settings, ours.sign("gateway", ends=3 * DAY))) as running:
        fetched = await asyncio.to_thread(urllib.request.urlopen, f"http://{running.http_address}/metrics")
        lines = fetched.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith("roost_tls_certificate_not_after_timestamp_seconds ")]
    expected = (datetime.datetime.now(datetime.UTC) + 3 * DAY).timestamp()
    assert float(line.split()[1]) == pytest.approx(expected, abs=60)


async def test_the_client_takes_what_it_trusts_from_the_environment(settings, ours, monkeypatch):
    files = ours.sign("shop")
    async with serving(over_tls(settings, ours.sign("gateway"), callers=ours.file)) as running:
        for name, value in zip(("AUTHORITY", "CERTIFICATE", "KEY"), (ours.file, *files), strict=True):
            monkeypatch.setenv(f"ROOST_TLS_{name}", str(value))
        assert await models(running.address, None) == ["digits", "plain"]


@pytest.mark.parametrize(
    ("of", "said"), [("theirs", "make no certificate"), ("absent", "cannot be read"), ("text", "make no certificate")]
)
async def test_a_key_that_does_not_fit_is_refused_before_anything_is_served(settings, ours, theirs, of, said):
    public, _ = ours.sign("gateway")
    keys = {"theirs": theirs.sign("gateway")[1], "absent": ours.folder / "absent.key", "text": ours.folder / "text.key"}
    (ours.folder / "text.key").write_text("no key")
    with pytest.raises(BadSettings, match=said):
        async with serving(over_tls(settings, (public, keys[of]))):
            pass


@pytest.mark.parametrize("given", [{"tls_key_file": "k.pem"}, {"tls_callers_file": "ca.pem"}])
def test_half_of_the_settings_are_refused(given):
    with pytest.raises(BadSettings, match="tls_certificate_file"):
        ServeSettings.load(flags=given)
