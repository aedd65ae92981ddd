"""Clients that ask for embeddings again and again, and take nothing for an answer but every chunk, once.

They know the API and HTTP only. Each goes to the next gateway when one does not answer.
"""

import contextlib
import itertools
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.account import Account, Work

VIDEO = "/generate_video_embeddings"
TIMEOUT = httpx.Timeout(3.0)
PAUSE = 0.1
CHUNK = 1
"""Seconds of film."""


class Client(threading.Thread):
    """Embeds a film of its own, over and over, until it is stopped. Subclasses know one way to ask."""

    kind = ""

    def __init__(self, urls: list[str], film: Path, account: Account, first: int = 0) -> None:
        super().__init__(daemon=True)
        self._account = account
        self._urls = itertools.cycle(urls[first % len(urls) :] + urls[: first % len(urls)])
        self._stopped = threading.Event()
        self.crash: Exception | None = None
        """What ended the thread, if that was not `stop`."""
        self._http = httpx.Client(timeout=TIMEOUT)
        self._url = next(self._urls)
        self._film = film
        self._body = {
            "id": upload(self._url, film),
            "model": "null",
            "chunk_duration": CHUNK,
            "encoding_format": "base64",
        }

    def stop(self) -> None:
        """End after the request that is under way."""
        self._stopped.set()

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self.crash = error
        self._http.close()

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                work = self._ask()
            except (httpx.TransportError, ValueError):
                work = None
            if work is None:
                self._account.refusals += 1
                self._elsewhere()

    def _elsewhere(self) -> None:
        self._url = next(self._urls)
        time.sleep(PAUSE)

    def _ask(self) -> Work | None:
        """Ask once, and follow until the end. Returns None if the request was not accepted."""
        raise NotImplementedError


class EventClient(Client):
    """Reads server-sent events, and resumes them after the last one that it has got."""

    kind = "events"

    def _ask(self) -> Work | None:
        body = self._body | {"stream": True, "stream_options": {"include_progress": True}}
        work: Work | None = None
        last = ""
        while not (work and work.ended):
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with self._http.stream("POST", self._url + VIDEO, json=body, headers=headers) as answer:
                    if answer.status_code != 200:
                        answer.read()
                    if answer.status_code == 404 and work:
                        finish(work, f"404 {answer.text}")
                    for identity, data in events(answer) if answer.status_code == 200 else ():
                        last = identity or last
                        work = work or self._account.open(last.partition("/")[0], self.kind)
                        note(work, data)
            except httpx.TransportError:
                pass
            if work is None:
                return None
            if not work.ended:
                self._elsewhere()
        return work


def events(answer: httpx.Response) -> Iterator[tuple[str, str]]:
    """Yield the id, or "", and the data of each event."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.strip()
        elif not line:
            if "data" in fields:
                yield fields.get("id", ""), fields["data"]
            fields = {}


def note(work: Work, data: str) -> None:
    """Note what an event says."""
    if data == "[DONE]":
        finish(work)
        return
    event = json.loads(data)
    if "chunk_responses" in event:
        add_chunks(work, event)
    elif "progress" not in event:
        finish(work, f"event {data}")


class LaterClient(Client):
    """Asks for an answer later (`Prefer: respond-async`), and comes back for it."""

    kind = "later"

    def _ask(self) -> Work | None:
        answer = self._http.post(self._url + VIDEO, json=self._body, headers={"Prefer": "respond-async"})
        if answer.status_code != 202:
            return None
        work = self._account.open(answer.headers["location"].rpartition("/")[2], self.kind)
        while not work.ended:
            try:
                self._look(work)
            except httpx.TransportError:
                self._elsewhere()
        return work

    def _look(self, work: Work) -> None:
        where = f"{self._url}/requests/{work.request}"
        answer = self._http.get(f"{where}/results")
        if answer.status_code == 200:
            add_chunks(work, answer.json())
            finish(work)
        elif answer.status_code == 202:
            time.sleep(PAUSE)
        elif answer.status_code == 503 and not self._failed(where):
            self._elsewhere()
        else:
            finish(work, f"{answer.status_code} {answer.text}")

    def _failed(self, where: str) -> bool:
        state = self._http.get(where)
        return state.status_code == 200 and state.json()["status"] in {"failed", "cancelled"}


class JsonClient(Client):
    """Waits for one JSON answer, and sends the request again with the same key until it has one."""

    kind = "json"

    def _ask(self) -> Work | None:
        key = str(uuid.uuid4())
        work = self._account.open(key, self.kind)
        while not work.ended:
            try:
                answer = self._http.post(self._url + VIDEO, json=self._body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                self._elsewhere()
                continue
            if answer.status_code == 503:
                self._account.withdraw(work)
                return None
            if answer.status_code != 200:
                finish(work, f"{answer.status_code} {answer.text}")
                break
            work.request = answer.json()["id"]
            add_chunks(work, answer.json())
            finish(work)
        return work


class UploadClient(LaterClient):
    """Uploads the film anew for each request, and deletes it afterwards."""

    kind = "upload, later"

    def _ask(self) -> Work | None:
        try:
            self._body["id"] = upload(self._url, self._film, TIMEOUT)
        except httpx.HTTPStatusError:
            return None
        try:
            return super()._ask()
        finally:
            with contextlib.suppress(httpx.TransportError):
                self._http.delete(f"{self._url}/files/{self._body['id']}")


def add_chunks(work: Work, answer: Any) -> None:
    """Note the chunks in an answer or an event."""
    for chunk in answer["chunk_responses"]:
        work.add(int(float(chunk["start_time"])) // CHUNK, chunk["embeddings"])


def finish(work: Work, error: str = "") -> None:
    """Note that a request has ended."""
    work.error = error[:500]
    work.ended = time.monotonic()


def upload(url: str, film: Path, timeout: httpx.Timeout | None = None) -> str:
    """Upload a film; its id."""
    with film.open("rb") as file:
        fields = {"purpose": "vision", "media_type": "video"}
        answer = httpx.post(f"{url}/files", data=fields, files={"file": (film.name, file)}, timeout=timeout)
    answer.raise_for_status()
    return str(answer.json()["id"])


def reference(url: str, film: Path) -> dict[int, str]:
    """The vectors of the film's chunks, from a request in quiet times."""
    body = {"id": upload(url, film), "model": "null", "chunk_duration": CHUNK, "encoding_format": "base64"}
    answer = httpx.post(url + VIDEO, json=body, timeout=60)
    answer.raise_for_status()
    work = Work("reference", "json")
    add_chunks(work, answer.json())
    return work.chunks
