"""Producing by unary calls: what is accepted, refused, and where it goes."""

import zlib

from client import (
    CALL_SECONDS,
    batch_of,
    check_error,
    damaged,
    fetch_all,
    fetch_raw,
    new_topic,
    placed,
    produce,
    produce_batches,
    record,
    records,
)
from taffrail.v1 import log_pb2


def what_is_produced_is_fetched(broker):
    topic = new_topic(broker).name
    sent = [
        record(b"plain"),
        record(b"with a key", key=b"k"),
        record(b"", key=b""),
        record(None, key=b"a tombstone"),
        record(b"\x00\xff", timestamp_ms=1_517_788_800_000),
        record("Grüße".encode(), trace=b"\x01", Größe=b""),
        record(b"before 1970", timestamp_ms=-1),
    ]
    assert produce(broker, topic, sent) == 0
    assert produce(broker, topic, records(b"one more")) == len(sent)
    found = fetch_all(broker, topic)
    assert [offset for offset, _ in found] == list(range(len(sent) + 1))
    assert [one for _, one in found[:-1]] == sent


def an_answer_tells_where_and_when(broker):
    topic = new_topic(broker, partitions=2).name
    produce(broker, topic, records(b"a", b"b"), partition=1)
    (result,) = produce_batches(broker, placed(topic, batch_of(records(b"c")), partition=1))
    assert (result.partition, result.base_offset) == (1, 2), result
    assert result.high_watermark >= 3 and result.append_time_ms > 1_700_000_000_000, result
    assert not result.duplicate


def a_batch_without_a_checksum_gets_one(broker):
    topic = new_topic(broker).name
    batch = log_pb2.RecordBatch(records=log_pb2.RecordSet(records=records(b"a", b"b")))
    (result,) = produce_batches(broker, placed(topic, batch))
    assert not result.HasField("error"), result
    (found,) = fetch_raw(broker, topic)
    assert found.HasField("records_crc") and found.records_crc == zlib.crc32(found.records)


def a_batch_that_does_not_fit_its_checksum_is_refused(broker):
    topic = new_topic(broker).name
    (result,) = produce_batches(broker, placed(topic, damaged(records(b"a"))))
    check_error(result.error, "CORRUPT_BATCH")
    assert produce(broker, topic, records(b"b")) == 0


def an_empty_batch_is_refused(broker):
    topic = new_topic(broker).name
    (result,) = produce_batches(broker, placed(topic, batch_of([])))
    assert result.HasField("error"), result


def a_batch_beyond_the_limit_is_refused_and_the_limit_named(broker):
    topic = new_topic(broker, max_batch_bytes="4096").name
    (result,) = produce_batches(broker, placed(topic, batch_of(records(bytes(5000)))))
    check_error(result.error, "BATCH_TOO_LARGE", max="4096")


def a_topic_that_is_not_there_is_an_error_of_its_batch_alone(broker):
    topic = new_topic(broker).name
    one, other = produce_batches(
        broker,
        placed("no-such-topic", batch_of(records(b"a"))),
        placed(topic, batch_of(records(b"b"))),
    )
    check_error(one.error, "UNKNOWN_TOPIC")
    assert not other.HasField("error") and other.base_offset == 0, other


def an_expected_offset_is_a_condition(broker):
    topic = new_topic(broker).name
    batch = batch_of(records(b"a"))
    (first,) = produce_batches(broker, placed(topic, batch, expected_next_offset=0))
    assert not first.HasField("error"), first
    (second,) = produce_batches(broker, placed(topic, batch, expected_next_offset=0))
    check_error(second.error, "OFFSET_MISMATCH", expected="0", actual="1")


def what_an_idempotent_producer_sends_twice_is_there_once(broker):
    topic = new_topic(broker).name
    request = log_pb2.InitProducerRequest()
    producer = broker.log.InitProducer(request, timeout=CALL_SECONDS)
    sequence = 0
    for listed, offset in ((records(b"a", b"b"), 0), (records(b"c"), 2)):
        batch = batch_of(listed)
        batch.producer_id = producer.producer_id
        batch.producer_epoch = producer.producer_epoch
        batch.base_sequence = sequence
        sequence += len(listed)
        for is_again in (False, True):
            (result,) = produce_batches(broker, placed(topic, batch))
            assert not result.HasField("error"), result
            assert (result.base_offset, result.duplicate) == (offset, is_again), result
    batch.base_sequence = 7
    (result,) = produce_batches(broker, placed(topic, batch))
    check_error(result.error, "SEQUENCE_GAP", expected="3", found="7")


def batches_behind_a_refused_one_are_refused(broker):
    topic = new_topic(broker, partitions=2).name
    results = produce_batches(
        broker,
        placed(topic, batch_of(records(b"a"))),
        placed(topic, damaged(records(b"b"))),
        placed(topic, batch_of(records(b"c"))),
        placed(topic, batch_of(records(b"d")), partition=1),
    )
    assert not results[0].HasField("error"), results[0]
    check_error(results[1].error, "CORRUPT_BATCH")
    check_error(results[2].error, "PRECEDING_FAILED")
    assert not results[3].HasField("error"), results[3]
    assert [one.value for _, one in fetch_all(broker, topic)] == [b"a"]


def a_key_goes_where_kafka_puts_it(broker):
    partitions = 7
    topic = new_topic(broker, partitions=partitions).name
    # What Kafka's own test of murmur2 expects.
    hashes = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    for key, value in hashes.items():
        batch = log_pb2.ProduceBatch(
            topic=topic, partition_key=key, batch=batch_of([record(b"a", key=key)])
        )
        (result,) = produce_batches(broker, batch)
        assert result.partition == (value & 0x7FFFFFFF) % partitions, (key, result)


def without_a_place_batches_are_spread(broker):
    topic = new_topic(broker, partitions=2).name
    batch = log_pb2.ProduceBatch(topic=topic, batch=batch_of(records(b"a")))
    results = [result for _ in range(64) for result in produce_batches(broker, batch)]
    assert {result.partition for result in results} == {0, 1}


def fire_and_forget_is_answered_only_when_refused(broker):
    topic = new_topic(broker).name
    batch = placed(topic, batch_of(records(b"a")))
    assert not produce_batches(broker, batch, acks=log_pb2.ACKS_NONE)
    assert produce(broker, topic, records(b"b")) == 1, "it keeps its place in the order"
