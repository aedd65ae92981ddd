"""A real S3 service for the tests: moto's server, in a thread of the tests' process."""

import datetime
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


class Bucket:
    """One bucket, seen from outside."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self.name = client, name

    def sizes(self) -> dict[str, int]:
        """The bytes of every object, by its key."""
        return {item["Key"]: item["Size"] for item in self._listed("list_objects_v2", "Contents")}

    def uploads(self) -> list[str]:
        """The keys of uploads in parts that are neither complete nor aborted."""
        return [item["Key"] for item in self._listed("list_multipart_uploads", "Uploads")]

    def _listed(self, call: str, field: str) -> list[Any]:
        found: list[Any] = getattr(self._client, call)(Bucket=self.name).get(field, [])
        return found

    def read(self, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=key)

    def age(self, key: str, seconds: float) -> None:
        """Make the object so old."""
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
        from moto.core.models import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[self.name].keys[key]
        found.last_modified = then.replace(tzinfo=None)


class Buckets:
    """The service."""

    def __init__(self) -> None:
        import boto3  # only tests of buckets need it, and it is large
        from moto.server import ThreadedMotoServer

        self._serve: Callable[..., ThreadedMotoServer] = partial(ThreadedMotoServer, verbose=False)
        self._server = self._serve(ip_address="127.0.0.1", port=0)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self._client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="key",
            aws_secret_access_key="secret",
        )  # fmt: skip
        self._numbers = itertools.count()

    def start_again(self) -> None:
        """Serve the same buckets on the same port, after `stop`."""
        host, _, port = self.endpoint.removeprefix("http://").partition(":")
        self._server = self._serve(ip_address=host, port=int(port))
        self._server.start()

    def make(self) -> Bucket:
        """A new, empty bucket."""
        name = f"media-{next(self._numbers)}"
        self._client.create_bucket(Bucket=name)
        return Bucket(self._client, name)

    def environment(self, bucket: Bucket, prefix: str = "rt/embed") -> dict[str, str]:
        """The variables with which a service keeps its assets there."""
        return {
            **KEYS, "S3_ENDPOINT_URL": self.endpoint, "RTEMBED_ASSET_STORE": f"s3://{bucket.name}/{prefix}"
        }  # fmt: skip

    def stop(self) -> None:
        self._client.close()
        self._server.stop()
