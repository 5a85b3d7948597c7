"""Health check of a container: ends with 0 when the served cascade answers an anonymous person in time.

Triton's own word is not enough. It calls itself ready while a killed Python process fails every request, and not ready
while a new version loads beside one that answers. So this asks what the supervisor of `shortlist serve` asks.

    python canary.py --timeout 2

Where the server speaks TLS, it wants --tls-ca and perhaps --tls-name; under mutual TLS, --tls-cert and --tls-key too.
"""

import argparse
import sys

from shortlist.serving.control import Control
from shortlist.serving.process import Address
from shortlist.serving.tls import Tls

REFUSED = "INVALID_ARGUMENT"  # a model that wants more than an anonymous request says so itself: it is alive


def main() -> str | None:
    """What is wrong, or None."""
    options = argparse.ArgumentParser(description="Ask the served cascade for a slate.")
    options.add_argument("--port", type=int, default=8001, help="gRPC port of the server on this machine")
    options.add_argument("--timeout", type=float, default=2.0, help="seconds that the answer may take")
    for name in ("ca", "cert", "key", "name"):
        options.add_argument(f"--tls-{name}", help="as in shortlist recommend --url")
    asked = options.parse_args()
    tls = Tls(asked.tls_ca, asked.tls_cert, asked.tls_key, asked.tls_name)
    control = Control(Address(grpc_port=asked.port), key="", tls=tls if tls != Tls() else None)
    try:
        code = control.canary(asked.timeout)
    finally:
        control.close()
    return None if code in (None, REFUSED) else f"cascade does not answer: {code}"


if __name__ == "__main__":
    sys.exit(main())
