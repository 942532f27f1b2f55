"""Fetching by unary calls, and looking up offsets."""

import json
import pathlib
import threading
import time
import zlib

from client import (
    CALL_SECONDS,
    EARLIEST,
    LATEST,
    at,
    check_error,
    fetch,
    fetch_all,
    fetch_raw,
    fetch_request,
    list_offset,
    new_topic,
    numbered,
    produce,
    record,
    records,
)
from taffrail.v1 import log_pb2, log_raw_pb2

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"


def a_fetch_begins_with_the_batch_of_its_offset(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(b"a", b"b", b"c"))
    produce(broker, topic, records(b"d"))
    result = fetch(broker, topic, offset=1)
    assert (result.log_start, result.high_watermark, result.next_offset) == (0, 4, 4), result
    found = [(offset, one.value) for offset, one in numbered(result.data.batches, start=1)]
    assert found == [(1, b"b"), (2, b"c"), (3, b"d")]


def at_the_end_a_fetch_is_empty_when_its_wait_is_over(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(b"a"))
    start = time.monotonic()
    result = fetch(broker, topic, offset=1, max_wait_ms=300)
    waited = time.monotonic() - start
    assert not result.HasField("error") and not result.data.batches, result
    assert result.next_offset == 1, result
    assert 0.25 <= waited < 10, waited


def a_waiting_fetch_is_answered_by_the_next_record(broker):
    topic = new_topic(broker).name
    call = broker.log.Fetch.future(fetch_request(topic, max_wait_ms=15_000), timeout=CALL_SECONDS)
    done = threading.Event()
    call.add_done_callback(lambda _: done.set())
    assert not done.wait(0.3), "there is nothing to answer with yet"
    start = time.monotonic()
    produce(broker, topic, records(b"a"))
    (result,) = call.result(timeout=CALL_SECONDS).results
    assert [one.value for _, one in numbered(result.data.batches)] == [b"a"]
    assert time.monotonic() - start < 10


def several_partitions_are_answered_in_their_order(broker):
    topic = new_topic(broker, partitions=3).name
    for partition in (0, 2):
        produce(broker, topic, records(b"in %d" % partition), partition)
    asked = [(topic, 2), ("no-such-topic", 0), (topic, 0), (topic, 1)]
    places = [log_pb2.FetchPartition(topic=name, partition=number) for name, number in asked]
    request = log_pb2.FetchRequest(partitions=places)
    results = broker.log.Fetch(request, timeout=CALL_SECONDS).results
    assert [(result.topic, result.partition) for result in results] == asked
    values = [[one.value for _, one in numbered(result.data.batches)] for result in results]
    assert values == [[b"in 2"], [], [b"in 0"], []]
    check_error(results[1].error, "UNKNOWN_TOPIC")


def an_offset_beyond_the_end_is_an_error_with_the_range(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(b"a", b"b", b"c"))
    result = fetch(broker, topic, offset=4)
    check_error(result.error, "OFFSET_OUT_OF_RANGE", start="0", end="3")
    result = list_offset(broker, topic, at(offset=1000))
    check_error(result.error, "OFFSET_OUT_OF_RANGE", start="0", end="3")


def a_partition_that_is_not_there_is_an_error(broker):
    topic = new_topic(broker).name
    assert fetch(broker, topic, partition=1).HasField("error")


def the_checksum_of_a_batch_is_that_of_its_bytes(broker):
    topic = new_topic(broker).name
    produce(broker, topic, [record(b"a", key=b"k", name=b"value"), record(None)])
    produce(broker, topic, records(bytes(10_000)))
    batches = fetch_raw(broker, topic)
    assert [batch.records_crc for batch in batches] == [zlib.crc32(b.records) for b in batches]
    counts = [len(log_raw_pb2.RecordSet.FromString(b.records).records) for b in batches]
    assert counts == [2, 1]


def a_stock_client_can_receive_every_answer(broker):
    topic = new_topic(broker).name
    sent = [bytes([number]) * 1_000_000 for number in range(8)]
    for value in sent:
        produce(broker, topic, records(value))
    offset, found = 0, []
    while offset < len(sent):
        result = fetch(broker, topic, offset, max_bytes=100_000_000)
        assert not result.HasField("error") and result.data.batches, result.error
        found += [one.value for _, one in numbered(result.data.batches, offset)]
        offset = result.next_offset
    assert found == sent


def the_first_batch_comes_whatever_the_limit(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(bytes(1000)))
    produce(broker, topic, records(bytes(1000)))
    result = fetch(broker, topic, max_bytes=1)
    assert len(result.data.batches) == 1 and result.next_offset == 1, result


def offsets_are_found_by_position(broker):
    topic = new_topic(broker).name
    produce(broker, topic, records(b"a", b"b", b"c"))
    positions = [EARLIEST, LATEST, at(offset=2), at(offset=3), at(last=1), at(last=100)]
    found = [list_offset(broker, topic, position) for position in positions]
    assert [result.offset for result in found] == [0, 3, 2, 3, 2, 0], found
    assert {(result.log_start, result.high_watermark) for result in found} == {(0, 3)}
    check_error(list_offset(broker, "no-such-topic", EARLIEST).error, "UNKNOWN_TOPIC")


def a_time_is_found_where_events_came_in_disorder(broker):
    topic = new_topic(broker).name
    lines = (DATA / "earthquakes-unsorted.ndjson").read_bytes().splitlines()
    times = [json.loads(line)["time"] for line in lines]
    events = [record(line, timestamp_ms=when) for line, when in zip(lines, times)]
    for start in range(0, len(events), 100):
        produce(broker, topic, events[start : start + 100])
    for query in json.loads((DATA / "earthquakes-times.json").read_text()):
        result = list_offset(broker, topic, at(timestamp_ms=query["time"]))
        assert not result.HasField("error"), (query, result)
        if query["first"] is None:
            assert not result.HasField("timestamp_ms"), (query, result)
            assert result.offset == len(events), (query, result)
        else:
            assert result.offset == query["first"], (query, result)
            assert result.timestamp_ms == times[query["first"]], (query, result)
    assert [one.value for _, one in fetch_all(broker, topic)] == lines
