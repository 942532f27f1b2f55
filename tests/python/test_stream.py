"""Producing on a stream: many requests in flight, answers in order."""

import contextlib
import queue

from client import STREAM_SECONDS, batch_of, check_error, damaged, fetch_all
from client import new_topic, placed, records
from taffrail.v1 import log_pb2


class _Stream:
    """A produce stream: `send` does not wait, `next` does."""

    def __init__(self, broker):
        self.requests = queue.SimpleQueue()
        self.answers = broker.log.ProduceStream(
            iter(self.requests.get, None), timeout=STREAM_SECONDS
        )

    def send(self, number, batch, **more):
        self.requests.put(log_pb2.ProduceStreamRequest(number=number, batch=batch, **more))

    def next(self):
        return next(self.answers)


@contextlib.contextmanager
def _stream(broker):
    stream = _Stream(broker)
    try:
        yield stream
    finally:
        stream.requests.put(None)
        stream.answers.cancel()


def the_first_answer_has_number_zero_and_the_limits(broker):
    with _stream(broker) as stream:
        first = stream.next()
        assert first.number == 0 and not first.HasField("result"), first
        assert first.limits.max_in_flight_bytes > 0, first
        assert first.limits.max_in_flight_requests > 1, first


def requests_in_flight_are_answered_in_order(broker):
    topic = new_topic(broker).name
    with _stream(broker) as stream:
        count = min(50, stream.next().limits.max_in_flight_requests)
        for number in range(1, count + 1):
            stream.send(number, placed(topic, batch_of(records(b"%d" % number, b"again"))))
        for number in range(1, count + 1):
            answer = stream.next()
            assert answer.number == number and not answer.HasField("limits"), answer
            assert not answer.result.HasField("error"), answer
            assert answer.result.base_offset == 2 * (number - 1), answer
    values = [one.value for _, one in fetch_all(broker, topic)]
    assert values[::2] == [b"%d" % number for number in range(1, count + 1)]


def behind_a_refusal_order_holds_until_it_is_resumed(broker):
    topic = new_topic(broker, partitions=2).name
    good = lambda value, partition=0: placed(topic, batch_of(records(value)), partition)
    with _stream(broker) as stream:
        stream.next()
        stream.send(1, good(b"a"))
        stream.send(2, placed(topic, damaged(records(b"b"))))
        stream.send(3, good(b"c"))
        stream.send(4, good(b"elsewhere", partition=1))
        stream.send(5, good(b"d"), resumes_after=2)
        stream.send(6, good(b"e"))
        answers = {answer.number: answer.result for answer in (stream.next() for _ in range(6))}
    check_error(answers[2].error, "CORRUPT_BATCH")
    check_error(answers[3].error, "PRECEDING_FAILED")
    for number in (1, 4, 5, 6):
        assert not answers[number].HasField("error"), (number, answers[number])
    assert [one.value for _, one in fetch_all(broker, topic)] == [b"a", b"d", b"e"]


def an_unknown_topic_on_a_stream_is_an_answer_not_its_end(broker):
    topic = new_topic(broker).name
    with _stream(broker) as stream:
        stream.next()
        stream.send(1, placed("no-such-topic", batch_of(records(b"a"))))
        stream.send(2, placed(topic, batch_of(records(b"b"))))
        answers = {answer.number: answer.result for answer in (stream.next() for _ in range(2))}
    check_error(answers[1].error, "UNKNOWN_TOPIC")
    assert not answers[2].HasField("error"), answers[2]
