"""Reading a topic of which records have gone."""

import time

from client import fetch, fetch_all, new_topic, numbered, produce, record

COUNT, KEYS = 300, 10


def the_records_that_are_left_say_where_they_are(broker):
    settings = {"cleanup": "compact", "min_cleanable_dirty_ratio": "0"}
    topic = new_topic(broker, max_batch_bytes="16KiB", segment_bytes="64KiB", **settings).name
    for first in range(0, COUNT, 3):
        listed = [
            record(b"%d " % offset + b"x" * 1000, key=b"%d" % (offset * 7 % KEYS))
            for offset in range(first, first + 3)
        ]
        assert produce(broker, topic, listed) == first
    # All but the last segment is compacted: of its keys, what they say last.
    while len(found := fetch_all(broker, topic)) > COUNT // 3:
        time.sleep(0.02)
    offsets = [offset for offset, _ in found]
    assert offsets == sorted(set(offsets)), offsets
    for offset, one in found:
        assert one.value.startswith(b"%d " % offset), (offset, one.value[:10])
        assert one.key == b"%d" % (offset * 7 % KEYS), (offset, one.key)
    assert set(range(COUNT - KEYS, COUNT)) <= set(offsets), "the latest of each key"
    # From inside a hole: the next one that is left.
    hole = next(offset for offset in range(COUNT) if offset not in offsets)
    behind = next(offset for offset in offsets if offset > hole)
    result = fetch(broker, topic, hole)
    if result.HasField("gap"):
        result = fetch(broker, topic, result.gap.to)
    assert numbered(result.data.batches, hole)[0][0] == behind, (hole, behind)
