#!/usr/bin/env python3
"""Makes earthquakes.ndjson and the test data derived from it.

Usage: make.py PATH-TO/earthquakes.json, run at the root of the repository.

Writes three files:
  docs/examples/earthquakes.ndjson      a flat object a line, ascending by time
  tests/data/earthquakes-unsorted.ndjson  the same lines, shuffled by the digest of their ids
  tests/data/earthquakes-times.json     what time lookups over the shuffled lines must answer
"""

import datetime
import hashlib
import json
import pathlib
import sys


def flat(feature):
    """One event as a flat object."""
    lon, lat, depth = feature["geometry"]["coordinates"]
    facts = feature["properties"]
    return {
        "id": feature["id"],
        "time": facts["time"],
        "mag": facts["mag"],
        "place": facts["place"],
        "lon": lon,
        "lat": lat,
        "depth": depth,
    }


def write_lines(path, events):
    lines = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in events]
    pathlib.Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def lookup(events, time):
    """The index of the first event, in the order given, at or after `time`."""
    return next((index for index, event in enumerate(events) if event["time"] >= time), None)


def new_highs(events):
    """The times later than all before them: between these, answers change."""
    high = 0
    for event in events:
        if event["time"] > high:
            high = event["time"]
            yield high


def utc(*when):
    moment = datetime.datetime(*when, tzinfo=datetime.timezone.utc)
    return int(moment.timestamp() * 1000)


def main():
    source = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    events = sorted(map(flat, source["features"]), key=lambda event: event["time"])
    write_lines("docs/examples/earthquakes.ndjson", events)

    shuffled = sorted(events, key=lambda event: hashlib.sha256(event["id"].encode()).digest())
    write_lines("tests/data/earthquakes-unsorted.ndjson", shuffled)

    queries = [("before all", 0), ("2018-02-05T00:00Z", utc(2018, 2, 5))]
    for high in new_highs(shuffled):
        queries += [("exactly a new high", high), ("just after it", high + 1)]
    answers = [
        {"query": name, "time": time, "first": lookup(shuffled, time)} for name, time in queries
    ]
    text = ",\n".join("  " + json.dumps(answer) for answer in answers)
    pathlib.Path("tests/data/earthquakes-times.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
