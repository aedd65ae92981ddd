"""A bucket that goes away while the service runs, and comes back."""

from pathlib import Path
from typing import Any

from tests.buckets import Buckets
from tests.e2e.conftest import Stack

URL = "/generate_video_embeddings"


def store_of(stack: Stack) -> dict[str, Any]:
    checks: list[dict[str, Any]] = stack.client.get("/ready?detailed=true").json()["checks"]
    return next(check for check in checks if check["component"] == "asset store")


def test_a_bucket_that_goes_away(stack: Stack, film: Path) -> None:
    service = Buckets()
    bucket = service.make()
    stack.bucket = bucket
    stack.environment |= service.environment(bucket)
    stack.start()
    assert store_of(stack)["healthy"]
    film_id = stack.upload(film)
    body = {"id": film_id, "model": "null", "chunk_duration": 5}
    service.stop()

    failed = stack.client.post(URL, json=body)
    assert (failed.status_code, failed.json()["code"]) == (500, "InternalServerError")
    assert "the asset store cannot be used: it cannot be connected to" in failed.json()["message"]
    with film.open("rb") as file:
        form = {"purpose": "vision", "media_type": "video"}
        refused = stack.client.post("/files", data=form, files={"file": file})
    assert (refused.status_code, refused.json()["code"]) == (503, "ServiceUnavailable")
    assert "it cannot be connected to" in refused.json()["message"]
    content = stack.client.get(f"/files/{film_id}/content")
    assert (content.status_code, content.json()["code"]) == (503, "ServiceUnavailable")
    texts = {"model": "null", "text_input": ["still here"]}
    assert stack.client.post("/generate_text_embeddings", json=texts).status_code == 200
    assert stack.client.get("/ready").status_code == 200

    service.start_again()
    answer = stack.client.post(URL, json=body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["chunk_responses"]) == 5
    service.stop()


def test_a_gateway_that_never_reached_its_bucket_is_not_ready(stack: Stack, buckets: Buckets) -> None:
    stack.environment |= buckets.environment(buckets.make())
    stack.environment["RTEMBED_ASSET_STORE"] = "s3://nowhere/films"
    stack.start()
    health = stack.client.get("/ready?detailed=true")
    assert health.status_code == 503
    assert "s3://nowhere/films/ cannot be used: NoSuchBucket" in store_of(stack)["message"]
