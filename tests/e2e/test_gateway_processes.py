"""Several gateway processes share one port: each answers, and one that dies is started again."""

import time

import httpx
import psutil

from tests.e2e.conftest import Stack


def gateways(stack: Stack) -> list[psutil.Process]:
    """The processes that serve, without those that watch them."""
    assert stack.gateway
    children = psutil.Process(stack.gateway.pid).children(recursive=True)
    return [child for child in children if child.net_connections("tcp") and not child.children()]


def two_gateways(stack: Stack) -> tuple[psutil.Process, psutil.Process]:
    deadline = time.monotonic() + 60
    while len(found := gateways(stack)) < 2:
        assert time.monotonic() < deadline, stack.logs()[-2000:]
        time.sleep(0.2)
    return found[0], found[1]


def test_several_processes_serve_one_port(stack: Stack) -> None:
    stack.environment["RTEMBED_GATEWAY_PROCESSES"] = "2"
    stack.start()
    first, second = two_gateways(stack)
    body = {"text_input": ["a red car"], "model": "null"}
    for _ in range(20):  # each is a connection of its own, given to one of them
        assert (
            httpx.post(f"{stack.url}/v1/generate_text_embeddings", json=body, timeout=30).status_code == 200
        )
    first.kill()
    first.wait(10)
    assert second.pid in {process.pid for process in two_gateways(stack)}
    stack.wait_ready()
    answer = httpx.post(f"{stack.url}/v1/generate_text_embeddings", json=body, timeout=30)
    assert answer.status_code == 200


def test_one_process_is_still_the_default(stack: Stack) -> None:
    stack.start()
    assert len(gateways(stack)) <= 1
