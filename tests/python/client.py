"""What every test needs of a client: batches, records with their offsets, expected errors."""

import itertools
import time
import zlib

import grpc
import stubs  # noqa: F401, puts the generated packages on the path
from taffrail.v1 import admin_pb2, log_pb2, log_raw_pb2

# For calls that answer at once, and for streams, in seconds.
CALL_SECONDS = 20
STREAM_SECONDS = 40

_numbers = itertools.count(1)


def new_topic(broker, partitions=1, **settings):
    """Creates a topic of a name not used yet. Returns the topic."""
    settings = {name.replace("_", "."): value for name, value in settings.items()}
    name = f"topic-{next(_numbers)}"
    request = admin_pb2.CreateTopicRequest(name=name, partitions=partitions, settings=settings)
    return broker.admin.CreateTopic(request, timeout=CALL_SECONDS).topic


def record(value, key=None, timestamp_ms=0, **headers):
    """A record; headers by name, in the order given."""
    return log_pb2.Record(
        key=key,
        value=value,
        timestamp_ms=timestamp_ms,
        headers=[log_pb2.Header(name=name, value=value) for name, value in headers.items()],
    )


def records(*values):
    return [record(value) for value in values]


def batch_of(listed):
    """A batch with the checksum a careful producer sends."""
    record_set = log_pb2.RecordSet(records=listed)
    crc = zlib.crc32(record_set.SerializeToString())
    return log_pb2.RecordBatch(records=record_set, records_crc=crc)


def damaged(listed):
    """A batch whose checksum is wrong."""
    batch = batch_of(listed)
    batch.records_crc ^= 1
    return batch


def placed(topic, batch, partition=0, **more):
    return log_pb2.ProduceBatch(topic=topic, partition=partition, batch=batch, **more)


def produce_batches(broker, *batches, acks=log_pb2.ACKS_COMMITTED):
    """One request with these batches. Returns the results."""
    request = log_pb2.ProduceRequest(batches=batches, acks=acks)
    return broker.log.Produce(request, timeout=CALL_SECONDS).results


def produce(broker, topic, listed, partition=0):
    """Appends records as one batch. Returns its base offset."""
    (result,) = produce_batches(broker, placed(topic, batch_of(listed), partition))
    assert not result.HasField("error"), result.error
    assert result.partition == partition, result
    return result.base_offset


def fetch_request(topic, offset=0, partition=0, **more):
    where = log_pb2.FetchPartition(topic=topic, partition=partition, offset=offset)
    return log_pb2.FetchRequest(partitions=[where], **more)


def fetch(broker, topic, offset=0, partition=0, **more):
    """Reads one partition, once it was checked after a kill. Returns the result."""
    request = fetch_request(topic, offset, partition, **more)
    late = time.monotonic() + CALL_SECONDS
    while True:
        (result,) = broker.log.Fetch(request, timeout=CALL_SECONDS).results
        assert (result.topic, result.partition) == (topic, partition), result
        if result.error.reason != "PARTITION_RECOVERING" or late < time.monotonic():
            return result
        time.sleep(result.error.retry_after_ms / 1000)


def fetch_raw(broker, topic, offset=0):
    """The same with the records as bytes. Returns the batches."""
    call = broker.channel.unary_unary(
        "/taffrail.v1.LogService/Fetch",
        request_serializer=log_pb2.FetchRequest.SerializeToString,
        response_deserializer=log_raw_pb2.FetchResponse.FromString,
    )
    (result,) = call(fetch_request(topic, offset), timeout=CALL_SECONDS).results
    assert not result.HasField("error"), result.error
    return log_raw_pb2.FetchedData.FromString(result.data).batches


def fetch_all(broker, topic, partition=0):
    """Every record of a partition, as `(offset, record)`."""
    found, offset = [], 0
    while True:
        result = fetch(broker, topic, offset, partition)
        assert not result.HasField("error"), result.error
        found += numbered(result.data.batches, offset)
        if result.next_offset >= result.high_watermark:
            return found
        assert offset < result.next_offset, "a fetch makes progress"
        offset = result.next_offset


def numbered(batches, start=0):
    """The client's records in batches from an offset on, as `(offset, record)`."""
    found = []
    for batch in batches:
        if batch.kind == log_pb2.BATCH_KIND_CONTROL:
            continue
        for index, one in enumerate(batch.records.records):
            delta = one.offset_delta if one.HasField("offset_delta") else index
            found.append((batch.base_offset + delta, one))
    return [pair for pair in found if start <= pair[0]]


def at(**where):
    """A position: `at(offset=3)`, `at(timestamp_ms=0)`, `at(last=2)`."""
    return log_pb2.Position(**where)


EARLIEST = log_pb2.Position(earliest=log_pb2.Earliest())
LATEST = log_pb2.Position(latest=log_pb2.Latest())


def list_offset(broker, topic, position, partition=0):
    """Looks up one position. Returns the result."""
    query = log_pb2.OffsetQuery(topic=topic, partition=partition, position=position)
    request = log_pb2.ListOffsetsRequest(queries=[query])
    (result,) = broker.log.ListOffsets(request, timeout=CALL_SECONDS).results
    return result


def check_error(error, reason, **metadata):
    """An error inside an answer has this reason, a sentence, and these numbers."""
    assert error.reason == reason, error
    assert error.message, error
    found = {name: error.metadata.get(name) for name in metadata}
    assert found == metadata, f"{found} is not {metadata}"


def check_status(call, code, reason):
    """A call fails as a whole with this code, and this reason in its details."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
        assert reason.encode() in details and b"taffrail" in details, details
    else:
        raise AssertionError(f"the call succeeded and should have failed with {reason}")
