"""Music is signed by C2PA with a key and certificates that a test makes, offline, and any change of it shows."""

from __future__ import annotations

import datetime
import json
import socket

import numpy as np
import pytest
import soundfile
from conftest import steps_room
from rooms import RATE
from test_compose import made_score

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.errors import DataError
from silent2music.export.signing import COMPOSITE, GENERATED, RECORD, Signing
from silent2music.score import write_midi

c2pa = pytest.importorskip("c2pa")


@pytest.fixture(scope="module")
def credentials(tmp_path_factory) -> tuple[str, str]:
    """A private key, and its certificate with that of an authority of our own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    today = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, key, is_authority: bool):
        names = [
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
                    x509.NameAttribute(NameOID.COMMON_NAME, n),
                ]
            )
            for n in (subject, "Authority")
        ]
        usage = x509.KeyUsage(
            not is_authority, False, False, False, False, is_authority, is_authority, False, False
        )
        made = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=1))
            .not_valid_after(today + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), True)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
        )
        if not is_authority:
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return made.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    folder = tmp_path_factory.mktemp("keys")
    chain = certificate("Composer", own, False) + certificate("Authority", root, True)
    (folder / "chain.pem").write_bytes(chain)
    for name, how in (
        ("key.pem", serialization.NoEncryption()),
        ("locked.pem", serialization.BestAvailableEncryption(b"x")),
    ):
        pem = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
        (folder / name).write_bytes(pem)
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (folder / "other.pem").write_bytes(pem)
    return str(folder / "key.pem"), str(folder / "chain.pem")


def manifest_of(path, mime: str) -> tuple[str, dict]:
    """The state of a file's signature, and its manifest."""
    with path.open("rb") as file, c2pa.Reader(mime, file) as reader:
        found = json.loads(reader.json())
    return found["validation_state"], found["manifests"][found["active_manifest"]]


def test_a_signed_file_says_how_it_was_made_and_shows_a_change(
    credentials, s2m, tmp_path, monkeypatch, sketched_folder
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    write_midi(tmp_path / "tune.mid", made_score(1.0))
    signed = ("--sign", credentials[0], "--certificate", credentials[1], "--model", sketched_folder)
    code, _, wrong = s2m("perform", "tune.mid", "-o", "a.wav", "--stems", *signed)
    assert code == 0, wrong
    record = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert record["settings"]["beside"]["signed"]["signer"] == "CN=Composer,O=Tests"
    files = ["a.wav", *(stem["file"] for stem in record["stems"])]
    for name in files:
        state, manifest = manifest_of(tmp_path / name, "audio/wav")
        assert state == "Valid" and manifest["title"] == name
        said = {a["label"]: a["data"] for a in manifest["assertions"]}
        assert said[RECORD]["score"]["file"] == "tune.mid"
        actions = next(data for label, data in said.items() if label.startswith("c2pa.actions"))
        assert actions["actions"][0]["digitalSourceType"] == GENERATED
    sums = [soundfile.read(tmp_path / name, dtype="int32")[0].astype(np.int64) for name in files]
    assert np.array_equal(sum(sums[1:]), sums[0])
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.wav").write_bytes(data)
    assert manifest_of(tmp_path / "changed.wav", "audio/wav")[0] == "Invalid"
    # It is replaced as ours, and is music of the same samples without a signature.
    assert s2m("perform", "tune.mid", "-o", "a.wav", "--stems", *signed, "--force")[0] == 0
    assert s2m("perform", "tune.mid", "-o", "b.wav", "--stems", "--model", sketched_folder)[0] == 0
    assert np.array_equal(audio.read(tmp_path / "a.wav").samples, audio.read(tmp_path / "b.wav").samples)


def test_a_scored_clip_is_signed(credentials, s2m, tmp_path, model_folder) -> None:
    pytest.importorskip("av")
    from clips import make_clip, scene

    frames = [scene(np.random.default_rng(0)).astype(np.uint8)] * 15
    make_clip(tmp_path / "scene.mp4", frames, sound=steps_room(0.6, 48_000))
    signed = ("--sign", credentials[0], "--certificate", credentials[1], "--model", model_folder)
    code, _, wrong = s2m("score-clip", tmp_path / "scene.mp4", "-o", tmp_path / "scored.mp4", *signed)
    assert code == 0, wrong
    state, manifest = manifest_of(tmp_path / "scored.mp4", "video/mp4")
    actions = next(
        a["data"]["actions"] for a in manifest["assertions"] if a["label"].startswith("c2pa.actions")
    )
    assert state == "Valid" and actions[0]["digitalSourceType"] == COMPOSITE
    assert manifest_of(tmp_path / "scored.wav", "audio/wav")[0] == "Valid"
    code, _, wrong = s2m("score-clip", tmp_path / "scene.mp4", "-o", tmp_path / "b.mkv", *signed)
    assert code == 1 and "b.mkv cannot be signed; expected one of" in wrong


def test_what_does_not_sign_is_one_sentence(credentials, s2m, tmp_path, model_folder) -> None:
    from pathlib import Path

    key, chain = map(Path, credentials)
    for own, theirs, said in (
        (key.with_name("none.pem"), chain, "none.pem cannot be read"),
        (chain, chain, "is no private key as PEM"),
        (key.with_name("locked.pem"), chain, "has a password"),
        (key, key, "holds no certificate as PEM"),
        (key.with_name("other.pem"), chain, "begins with the certificate of another key"),
    ):
        with pytest.raises(DataError, match=said):
            Signing(own, theirs)
    room = tmp_path / "room.wav"
    audio.write(room, Waveform(steps_room(1.0), RATE))
    model = ("--model", model_folder)
    code, _, wrong = s2m("infer", room, "--sign", key, *model)
    assert code == 2 and "give --sign KEY --certificate CERT" in wrong
    code, _, wrong = s2m(
        "infer", room, "-o", tmp_path / "a.ogg", "--sign", key, "--certificate", chain, *model
    )
    assert code == 1 and "a.ogg cannot be signed" in wrong and not (tmp_path / "a.ogg").exists()
    # A certificate that nobody vouches for is none that C2PA takes.
    lone = tmp_path / "lone.pem"
    end = "-----END CERTIFICATE-----\n"
    lone.write_text(chain.read_text(encoding="utf-8").split(end)[1] + end, encoding="utf-8")
    with pytest.raises(DataError, match="another key"):
        Signing(key, lone)
