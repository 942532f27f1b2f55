"""Frames of other libraries are opened by the broker, and its client's by these libraries."""

import zlib

import lz4.frame
import zstandard
from client import fetch, fetch_all, new_topic, numbered, placed, produce_batches, record
from taffrail.v1 import log_pb2

NAMES = {log_pb2.COMPRESSION_LZ4: "lz4", log_pb2.COMPRESSION_ZSTD: "zstd"}


def _frames(payload):
    """What the libraries make of a payload in their several ways."""
    yield log_pb2.COMPRESSION_LZ4, lz4.frame.compress(payload)
    yield log_pb2.COMPRESSION_LZ4, lz4.frame.compress(payload, store_size=False)
    yield log_pb2.COMPRESSION_LZ4, lz4.frame.compress(payload, content_checksum=True, block_checksum=True)
    yield log_pb2.COMPRESSION_LZ4, lz4.frame.compress(payload, block_linked=False, compression_level=9)
    yield log_pb2.COMPRESSION_LZ4, lz4.frame.compress(payload, block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    yield log_pb2.COMPRESSION_ZSTD, zstandard.ZstdCompressor().compress(payload)
    yield log_pb2.COMPRESSION_ZSTD, zstandard.ZstdCompressor(level=19, write_checksum=True).compress(payload)
    streamed = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    yield log_pb2.COMPRESSION_ZSTD, streamed.compress(payload) + streamed.flush()


def _opened(batch):
    """The records of a batch that its reader opens."""
    assert zlib.crc32(batch.compressed_records) == batch.records_crc
    if batch.compression == log_pb2.COMPRESSION_LZ4:
        payload = lz4.frame.decompress(batch.compressed_records)
    else:
        payload = zstandard.ZstdDecompressor().decompressobj().decompress(batch.compressed_records)
    return log_pb2.RecordSet.FromString(payload).records


def frames_of_other_libraries_are_taken_and_given_back(broker):
    topic = new_topic(broker).name
    listed = [record(b"%d " % number + b"some text " * 20) for number in range(700)]
    payload = log_pb2.RecordSet(records=listed).SerializeToString()
    sent = list(_frames(payload))
    for compression, frame in sent:
        batch = log_pb2.RecordBatch(
            compression=compression, compressed_records=frame, records_crc=zlib.crc32(frame)
        )
        (result,) = produce_batches(broker, placed(topic, batch))
        assert not result.HasField("error"), (NAMES[compression], result.error)
    # Opened by the broker.
    found = fetch_all(broker, topic)
    assert [one.value for _, one in found] == [one.value for one in listed] * len(sent)
    assert [offset for offset, _ in found] == list(range(len(found)))
    # As it was sent.
    result = fetch(broker, topic, accepted_compressions=list(NAMES))
    assert len(result.data.batches) == len(sent)
    for batch, (compression, frame) in zip(result.data.batches, sent):
        assert (batch.compression, batch.compressed_records) == (compression, frame)
        assert _opened(batch) == listed
    # One of them only.
    result = fetch(broker, topic, accepted_compressions=[log_pb2.COMPRESSION_ZSTD])
    assert result.data.batches[0].compression == log_pb2.COMPRESSION_NONE
    assert numbered(result.data.batches[:1])[0] == (0, listed[0])


def frames_of_the_command_line_are_opened_by_other_libraries(broker):
    for compression, name in NAMES.items():
        topic = new_topic(broker).name
        lines = [b"%d some text that comes again and again" % number for number in range(500)]
        broker.run("produce", topic, "--compression", name, input=b"\n".join(lines))
        found, compressions, offset = [], set(), 0
        while len(found) < len(lines):
            result = fetch(broker, topic, offset, accepted_compressions=list(NAMES))
            for batch in result.data.batches:
                compressions.add(batch.compression)
                # A batch that would not become smaller is sent as it is.
                is_plain = batch.compression == log_pb2.COMPRESSION_NONE
                listed = batch.records.records if is_plain else _opened(batch)
                found += [one.value for one in listed]
            offset = result.next_offset
        assert found == lines
        assert compression in compressions, compressions
