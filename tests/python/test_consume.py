"""Consuming on a stream: credit, replay turning into the live tail, seeks, heartbeats."""

import contextlib
import queue

from client import EARLIEST, STREAM_SECONDS, at, check_error, new_topic, numbered
from client import produce, records
from taffrail.v1 import log_pb2


class _Consumer:
    """A consume stream: `say` does not wait, `next` does."""

    def __init__(self, broker):
        self.commands = queue.SimpleQueue()
        self.events = broker.log.Consume(iter(self.commands.get, None), timeout=STREAM_SECONDS)

    def say(self, **command):
        self.commands.put(log_pb2.ConsumeRequest(**command))

    def subscribe(self, subscription, topic, position, **more):
        self.say(
            subscribe=log_pb2.Subscribe(
                subscription=subscription, topic=topic, position=position, **more
            )
        )

    def grant(self, amount):
        self.say(grant=log_pb2.Grant(bytes=amount))

    def next(self, *kinds):
        """The next event of one of these kinds, as `(kind, event)`; others are passed over."""
        for response in self.events:
            kind = response.WhichOneof("event")
            if kind in kinds:
                return kind, getattr(response, kind)
        raise AssertionError("the broker ended the stream")

    def values(self, count, subscription=1):
        """The values of the next records of a subscription, with their offsets."""
        found = []
        while len(found) < count:
            _, delivery = self.next("delivery")
            if delivery.subscription == subscription:
                batches = delivery.data.batches
                found += [(offset, one.value) for offset, one in numbered(batches)]
        return found


@contextlib.contextmanager
def _consumer(broker):
    consumer = _Consumer(broker)
    try:
        yield consumer
    finally:
        consumer.commands.put(None)
        consumer.events.cancel()


def replay_turns_into_the_live_tail(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(b"a", b"b"))
    produce(broker, topic, records(b"c"))
    with _consumer(broker) as consumer:
        consumer.subscribe(1, topic, EARLIEST)
        consumer.grant(1 << 20)
        _, where = consumer.next("subscribed")
        assert (where.subscription, where.offset, where.high_watermark) == (1, 0, 3), where
        assert consumer.values(3) == [(0, b"a"), (1, b"b"), (2, b"c")]
        produce(broker, topic, records(b"d"))
        assert consumer.values(1) == [(3, b"d")]


def without_credit_nothing_comes_but_signs_of_life(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(b"a"))
    with _consumer(broker) as consumer:
        consumer.subscribe(1, topic, EARLIEST)
        kind, heartbeat = consumer.next("delivery", "heartbeat")
        while kind == "heartbeat" and not heartbeat.partitions:
            kind, heartbeat = consumer.next("delivery", "heartbeat")
        assert kind == "heartbeat", "a delivery came without credit"
        assert heartbeat.credit_bytes == 0 and heartbeat.broker_time_ms > 0, heartbeat
        (state,) = heartbeat.partitions
        found = (state.subscription, state.log_start, state.high_watermark, state.next_offset)
        assert found == (1, 0, 1, 0), state
        consumer.grant(1)
        assert consumer.values(1) == [(0, b"a")]


def credit_is_overdrawn_by_one_batch_at_most(broker):
    topic = new_topic(broker).name
    for number in range(10):
        produce(broker, topic, records(b"%d" % number * 1000))
    with _consumer(broker) as consumer:
        consumer.grant(2000)
        consumer.subscribe(1, topic, EARLIEST)
        consumer.next("subscribed")
        charged, batches, credit = 0, [], 2000
        while credit > 0:
            kind, event = consumer.next("delivery", "heartbeat")
            if kind == "heartbeat":
                credit = event.credit_bytes
            else:
                charged += event.charged_bytes
                batches += event.data.batches
        assert credit == 2000 - charged, (credit, charged)
        assert len(batches) == 2, "two of a thousand bytes and more use it up"
        consumer.grant(1 << 20)
        assert [offset for offset, _ in consumer.values(8)] == list(range(2, 10))


def a_seek_gives_the_subscription_a_new_number(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(b"a"))
    produce(broker, topic, records(b"b"))
    with _consumer(broker) as consumer:
        consumer.subscribe(1, topic, at(last=1))
        consumer.grant(1 << 20)
        assert consumer.values(1) == [(1, b"b")]
        consumer.say(
            seek=log_pb2.Seek(subscription=1, new_subscription=2, position=at(offset=0))
        )
        assert consumer.values(2, subscription=2) == [(0, b"a"), (1, b"b")]


def a_subscription_begins_at_a_time(broker):
    topic = new_topic(broker).name
    for when in (3000, 1000, 5000, 2000):
        produce(broker, topic, [log_pb2.Record(value=b"%d" % when, timestamp_ms=when)])
    with _consumer(broker) as consumer:
        consumer.subscribe(1, topic, at(timestamp_ms=3001))
        consumer.grant(1 << 20)
        assert consumer.values(2) == [(2, b"5000"), (3, b"2000")]


def the_failure_of_one_subscription_leaves_the_others(broker):
    topic = new_topic(broker, partitions=2).name
    produce(broker, topic, records(b"a"))
    with _consumer(broker) as consumer:
        consumer.grant(1 << 20)
        consumer.subscribe(1, topic, at(offset=2))
        _, failure = consumer.next("error")
        assert failure.subscription == 1, failure
        check_error(failure.error, "OFFSET_OUT_OF_RANGE", start="0", end="1")
        consumer.subscribe(2, "no-such-topic", EARLIEST)
        _, failure = consumer.next("error")
        assert failure.subscription == 2, failure
        check_error(failure.error, "UNKNOWN_TOPIC")
        consumer.subscribe(3, topic, EARLIEST)
        assert consumer.values(1, subscription=3) == [(0, b"a")]


def a_paused_subscription_goes_on_where_it_was(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(b"a"))
    with _consumer(broker) as consumer:
        consumer.subscribe(1, topic, EARLIEST)
        consumer.grant(1 << 20)
        assert consumer.values(1) == [(0, b"a")]
        consumer.say(pause=log_pb2.Pause(subscription=1))
        # A second subscription that is answered tells that the pause was heard.
        consumer.subscribe(2, topic, EARLIEST)
        assert consumer.values(1, subscription=2) == [(0, b"a")]
        produce(broker, topic, records(b"b"))
        assert consumer.values(1, subscription=2) == [(1, b"b")]
        consumer.say(resume=log_pb2.Resume(subscription=1))
        assert consumer.values(1) == [(1, b"b")]
