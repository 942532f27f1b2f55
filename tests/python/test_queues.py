"""A worker of a queue in plain gRPC: it takes records, settles them, and its dead letters are read."""

import queue
import time

from client import CALL_SECONDS, STREAM_SECONDS, fetch, new_topic, produce, record, records
from taffrail.v1 import queue_pb2


class _Worker:
    """A simple worker: says things on a stream, and hears what the broker says."""

    def __init__(self, broker, name):
        self.said = queue.Queue()
        self.say(open=queue_pb2.OpenQueue(queue=name))
        self.events = broker.queues.Receive(iter(self.said.get, None), timeout=STREAM_SECONDS)
        self.deliveries, self.results = [], []

    def say(self, **command):
        self.said.put(queue_pb2.ReceiveRequest(**command))

    def take(self, records):
        """Gets so many records."""
        self.say(grant=queue_pb2.QueueGrant(records=records))
        while len(self.deliveries) < records:
            self.hear()
        taken, self.deliveries = self.deliveries[:records], self.deliveries[records:]
        return taken

    def settle(self, **verdicts_by_kind):
        """Says something of deliveries; returns the reasons of what does not count."""
        settlements = [
            queue_pb2.Settlement(ack_id=delivery.ack_id, **{kind: verdict})
            for kind, (delivery, verdict) in verdicts_by_kind.items()
        ]
        self.say(settle=queue_pb2.SettleRecords(settlements=settlements))
        while len(self.results) < len(settlements):
            self.hear()
        results, self.results = self.results, []
        return {it.ack_id: it.error.reason for it in results}

    def hear(self):
        event = next(self.events)
        self.deliveries += event.deliveries.deliveries
        self.results += event.settled.results

    def close(self):
        self.said.put(None)
        assert not list(self.events)


def _new_queue(broker, topic, **settings):
    name = f"queue-of-{topic}"
    request = queue_pb2.CreateQueueRequest(
        queue=name, topic=topic, settings=queue_pb2.QueueSettings(**settings)
    )
    broker.queues.CreateQueue(request, timeout=CALL_SECONDS)
    return name


def _describe(broker, name):
    request = queue_pb2.DescribeQueueRequest(queue=name)
    return broker.queues.DescribeQueue(request, timeout=CALL_SECONDS)


def a_worker_settles_records_in_every_way(broker):
    topic = new_topic(broker).name
    name = _new_queue(broker, topic, lease_ms=60_000)
    produce(broker, topic, records(b"done", b"later", b"not now", b"never"))
    worker = _Worker(broker, name)
    done, later, not_now, never = worker.take(4)
    assert [it.record.value for it in (done, never)] == [b"done", b"never"]
    assert {it.attempt for it in (done, later, not_now, never)} == {1}
    refused = worker.settle(
        ack=(done, queue_pb2.Ack()),
        nack=(later, queue_pb2.Nack(delay_ms=200)),
        release=(not_now, queue_pb2.Release()),
        reject=(never, queue_pb2.Reject(reason="it says nothing")),
    )
    assert set(refused.values()) == {""}, refused
    began = time.monotonic()
    first, second = worker.take(2)
    assert (first.record.value, first.attempt) == (b"not now", 1)
    assert (second.record.value, second.attempt) == (b"later", 2)
    assert time.monotonic() - began < 10
    assert set(worker.settle(ack=(first, queue_pb2.Ack())).values()) == {""}
    assert set(worker.settle(ack=(second, queue_pb2.Ack())).values()) == {""}
    assert set(worker.settle(ack=(done, queue_pb2.Ack())).values()) == {"ALREADY_SETTLED"}
    worker.close()
    described = _describe(broker, name)
    assert described.idle == queue_pb2.QUEUE_IDLE_EMPTY, described
    (parked,) = broker.queues.ListParked(
        queue_pb2.ListParkedRequest(queue=name), timeout=CALL_SECONDS
    ).records
    assert (parked.record.value, parked.reason) == (b"never", "it says nothing")


def a_dead_letter_says_where_it_comes_from(broker):
    topic, dead = new_topic(broker).name, new_topic(broker).name
    name = _new_queue(broker, topic, max_attempts=1, dead_letter_topic=dead)
    produce(broker, topic, [record(b"broken", key=b"k", own=b"kept")])
    worker = _Worker(broker, name)
    (delivery,) = worker.take(1)
    assert set(worker.settle(nack=(delivery, queue_pb2.Nack())).values()) == {""}
    worker.close()
    late = time.monotonic() + CALL_SECONDS
    while not _describe(broker, name).tally.copied:
        assert time.monotonic() < late
        time.sleep(0.02)
    (batch,) = fetch(broker, dead).data.batches
    (letter,) = batch.records.records
    headers = {header.name: header.value for header in letter.headers}
    assert (letter.key, letter.value, headers["own"]) == (b"k", b"broken", b"kept")
    said = {name: headers[f"taffrail-dead-letter-{name}"] for name in ("queue", "offset", "attempts")}
    assert said == {"queue": name.encode(), "offset": b"0", "attempts": b"1"}, said
