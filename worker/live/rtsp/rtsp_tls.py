"""TLS to cameras (rtsps://)."""

import ssl
from functools import lru_cache

import certifi

from worker.live.camera_description import CameraError, CameraOptions


def tls_context(options: CameraOptions, host: str) -> ssl.SSLContext:
    """Return how to speak TLS with a camera: its certificate is verified by the options' authorities, or else
    by the public ones, unless its host is not to be verified. Raises CameraError for unusable authorities."""
    if host.lower() in options.unverified_hosts:
        return _unverified()
    try:
        return _verified(options.authorities)
    except ssl.SSLError as error:
        raise CameraError(f"RTEMBED_RTSP_CA_FILE cannot be used: {error}") from error


@lru_cache(maxsize=4)
def _verified(authorities: str) -> ssl.SSLContext:
    if authorities:
        return ssl.create_default_context(cadata=authorities)
    return ssl.create_default_context(cafile=certifi.where())


@lru_cache(maxsize=1)
def _unverified() -> ssl.SSLContext:
    """Encrypt without verifying, also with short, outdated keys: some cameras have no others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("DEFAULT:@SECLEVEL=1")
    return context
