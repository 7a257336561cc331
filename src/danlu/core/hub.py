"""Whether the Hugging Face hub can be reached, asked once, so that nobody waits through retries without a network."""

import functools
import os
import socket
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 3.0
_TRUE = {"1", "on", "yes", "true"}
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@functools.cache
def hub_reachable() -> bool:
    """False when the hub's host does not answer within three seconds, or HF_HUB_OFFLINE is set.

    Behind a proxy nothing is tried, and the answer is True. What is in the hub's local cache works either way: pass
    `local_files_only=not hub_reachable()`.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        return False
    if any(os.environ.get(name) for name in _PROXIES):
        return True
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=TIMEOUT_SECONDS):
            return True
    except OSError:
        return False
