"""Three Kafka brokers in a process of their own: `python -m tests.chaos.broker`, told by lines on its input.

`servers`, `topic NAME`, `down`, `up`: each is answered with one line. The brokers keep their log while they
are down, as real ones do.
"""

import sys

from tests.brokers import MockCluster

PARTITIONS = 3


def main() -> None:
    """Obey until the input ends."""
    cluster = MockCluster()
    for line in sys.stdin:
        answer = "done"
        match line.split():
            case ["servers"]:
                answer = cluster.servers
            case ["topic", name]:
                cluster.create_topic(name, PARTITIONS)
            case ["down"]:
                cluster.down()
            case ["up"]:
                cluster.up()
            case words:
                raise ValueError(words)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
