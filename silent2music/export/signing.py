"""Signed provenance by C2PA (c2pa.org): what a file is and how it was made, under a signature of the user's key.

Nothing is fetched: there is no time stamp of an authority, and whether a certificate is trusted is for the reader to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silent2music import __version__
from silent2music.errors import DataError, require
from silent2music.files import atomic_path, read_small

MIME_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
}
"""What can be signed, by suffix."""

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's name for what a trained model made."""

COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""Of what a trained model made a part of, such as the sound of a clip."""

RECORD = "org.silent2music.record"
"""Name of the assertion that holds the record."""


@dataclass(frozen=True)
class Signing:
    """The user's key and certificates.

    Attributes:
        key: private key as PEM, without a password.
        certificate: the signer's certificate as PEM, followed by those that vouch for it, but for the root.

    Raises:
        DataError: if they cannot be read or do not belong together.
    """

    key: Path
    certificate: Path

    def __post_init__(self) -> None:
        self._credentials()

    def described(self) -> dict[str, str]:
        """What a record says of the signature."""
        from cryptography import x509

        own = x509.load_pem_x509_certificates(self._credentials()[1])[0]
        return {"signer": own.subject.rfc4514_string(), "certificate": f"{own.serial_number:x}"}

    def check(self, out: Path) -> None:
        """Refuse to sign a file of a kind that holds no signature.

        Raises:
            DataError: in one sentence.
        """
        if out.suffix.lower() not in MIME_TYPES:
            raise DataError(f"{out.name} cannot be signed; expected one of {', '.join(MIME_TYPES)}.")

    def _credentials(self) -> tuple[str, bytes, bytes]:
        """The algorithm, the certificates and the key, as the library takes them."""
        require("c2pa", "provenance")
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        key_pem, chain = _read(self.key, "a private key"), _read(self.certificate, "certificates")
        try:
            key: Any = serialization.load_pem_private_key(key_pem, None)
        except TypeError:
            raise DataError(
                f"{self.key} has a password; expected a private key as PEM without one."
            ) from None
        except Exception as error:
            raise DataError(f"{self.key} is no private key as PEM ({_words(error)}).") from error
        try:
            own = x509.load_pem_x509_certificates(chain)[0]
        except Exception as error:
            raise DataError(f"{self.certificate} holds no certificate as PEM ({_words(error)}).") from error
        form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if own.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
            raise DataError(
                f"{self.certificate} begins with the certificate of another key than {self.key}; give the signer's first."
            )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _algorithm(key, self.key), chain, pem

    def sign(self, path: Path, title: str, record: Mapping[str, Any], is_composite: bool = False) -> None:
        """Sign a file in its place.

        Args:
            path: of one of `MIME_TYPES`.
            title: its name to come.
            record: how it was made.
            is_composite: what was generated is a part of it.

        Raises:
            DataError: if the library refuses key, certificate or file.
        """
        c2pa = require("c2pa", "provenance")
        algorithm, chain, key = self._credentials()
        mime = MIME_TYPES[path.suffix.lower()]
        action = {
            "action": "c2pa.created",
            "digitalSourceType": COMPOSITE if is_composite else GENERATED,
            "softwareAgent": {"name": "silent2music", "version": __version__},
        }
        manifest = {
            "claim_generator_info": [{"name": "silent2music", "version": __version__}],
            "title": title,
            "format": mime,
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [action]}},
                {"label": RECORD, "data": json.loads(json.dumps(record))},
            ],
        }
        try:
            info = c2pa.C2paSignerInfo(algorithm.encode(), chain, key, None)
            with (
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(json.dumps(manifest)) as builder,
                atomic_path(path, force=True) as signed,
                path.open("rb") as source,
                signed.open("w+b") as sink,
            ):
                builder.sign(signer, mime, source, sink)
        except c2pa.C2paError as error:
            raise DataError(
                f"{title} cannot be signed with {self.certificate.name} ({_words(error)}); C2PA wants a certificate for "
                "signatures that another one vouches for."
            ) from error


def _read(path: Path, what: str) -> bytes:
    try:
        return read_small(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected {what} as PEM.") from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _algorithm(key: Any, path: Path) -> str:
    """C2PA's name for how a key signs."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise DataError(
        f"{path} is a key that C2PA does not sign with; expected P-256, P-384, P-521, Ed25519 or RSA of 2048 bits."
    )
