"""Search a running service for answers that its own description does not allow, with schemathesis.

    scripts/bench contract --max-examples 200 [--url http://localhost:8000]

Without --url a service of its own is started, with the model that costs nothing and a search index. Options
that are not known here go to schemathesis.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


def check(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run schemathesis against the service at `url`: examples, limits and random requests."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json",
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--workers", "2",
        "--request-timeout", "30", "--no-color",
        "--exclude-operation-id", "follow_trigger",  # events without end, of triggers that it has made
        *options,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    arguments, options = parser.parse_known_args()
    began = time.monotonic()
    outcome = check(arguments.url, *options) if arguments.url else _check_own(*options)
    print(outcome.stdout, outcome.stderr, f"{time.monotonic() - began:.0f} s", sep="\n")
    return outcome.returncode


def _check_own(*options: str) -> subprocess.CompletedProcess[str]:
    from tests.e2e.conftest import Stack
    from tests.support import PostgresServer, RedisServer, valkey_binary

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        redis, postgres = (
            RedisServer(valkey_binary(), Path(folder)),
            PostgresServer(Path(folder) / "postgres"),
        )
        redis.start()
        postgres.start()
        stack = Stack(Path(folder), redis.url)
        stack.environment["VSS_SKIP_INPUT_MEDIA_VERIFICATION"] = "1"
        try:
            stack.start_indexer(postgres.url)
            stack.start()
            return check(stack.url, *options)
        finally:
            stack.stop()
            postgres.stop()
            redis.stop()


if __name__ == "__main__":
    sys.exit(main())
