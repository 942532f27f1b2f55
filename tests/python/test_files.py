"""What lies on disk: any protobuf library reads it, and it outlives the process."""

import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import stubs
from broker import running
from client import fetch_all, new_topic, numbered, produce, record, records
from taffrail.v1 import log_pb2

# Where a batch lies between the bytes of its file; docs/formats has the whole.
HEADER_BYTES = 89
TAG_OF_BATCHES = 0x12


def _canonical_batches(data):
    """Each batch of a segment file, found by positions alone and without a protobuf library."""
    at = _end(data, 0)
    while at < len(data):
        assert data[at] == TAG_OF_BATCHES, f"byte {at} is {data[at]:#x}"
        end = _end(data, at)
        yield data[at:end]
        at = end


def _end(data, at):
    """Where the field that begins at `at`, with a tag of one byte, ends."""
    length, shift = 0, 0
    for position in range(at + 1, len(data)):
        length |= (data[position] & 0x7F) << shift
        shift += 7
        if data[position] < 0x80:
            return position + 1 + length
    raise AssertionError(f"the length at byte {at} has no end")


def a_cleanly_closed_segment_is_a_protobuf_message(binary):
    with tempfile.TemporaryDirectory(prefix="taffrail-") as folder:
        with running(binary, f"{folder}/data") as broker:
            topic = new_topic(broker, partitions=2)
            sent = [record(b"a", key=b"k", name=b"value"), record(None, timestamp_ms=5)]
            produce(broker, topic.name, sent, partition=1)
            produce(broker, topic.name, records(b"b", b"c"), partition=1)
            code = broker.stop()
            assert code == 0, f"exit code {code}:\n{broker.said()}"
            (path,) = broker.segments(topic.id, partition=1)
        data = path.read_bytes()

    assert path.name == "0" * 20 + ".log", path
    segment = log_pb2.Segment.FromString(data)
    assert segment.header.format_version == 1 and segment.header.base_offset == 0
    assert segment.header.label == f"{topic.name}/1", segment.header
    assert segment.header.log_id == bytes.fromhex(topic.id) + struct.pack(">I", 1)

    found = numbered(segment.batches)
    assert [offset for offset, _ in found] == [0, 1, 2, 3]
    assert [one for _, one in found] == sent + records(b"b", b"c")

    salt = segment.header.salt
    for batch, raw in zip(segment.batches, _canonical_batches(data), strict=True):
        header, payload = raw[:HEADER_BYTES], raw[HEADER_BYTES:]
        assert batch.header_crc == zlib.crc32(header[:6] + header[10:], salt)
        assert batch.records_crc == zlib.crc32(payload)


def a_restart_finds_every_record_and_topic(binary):
    with tempfile.TemporaryDirectory(prefix="taffrail-") as folder:
        with running(binary, f"{folder}/data") as broker:
            topic = new_topic(broker)
            produce(broker, topic.name, records(b"a", b"b"))
            assert broker.stop() == 0, broker.said()
        with running(binary, f"{folder}/data") as broker:
            assert [one.value for _, one in fetch_all(broker, topic.name)] == [b"a", b"b"]
            assert produce(broker, topic.name, records(b"c")) == 2


def what_was_acknowledged_survives_a_kill(binary):
    with tempfile.TemporaryDirectory(prefix="taffrail-") as folder:
        with running(binary, f"{folder}/data") as broker:
            topic = new_topic(broker)
            for number in range(20):
                produce(broker, topic.name, records(b"%d" % number))
            broker.process.kill()
            broker.process.wait()
        with running(binary, f"{folder}/data") as broker:
            found = fetch_all(broker, topic.name)
            assert found == [(number, record(b"%d" % number)) for number in range(20)]


def the_quickstart_prints_what_it_produced(broker):
    script = pathlib.Path(__file__).with_name("quickstart.py")
    done = subprocess.run(
        [sys.executable, script, broker.target],
        env={"PYTHONPATH": str(stubs.GENERATED), "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["on disk from offset 0", "0 ahoy", "1 moin", "2 hello"]
