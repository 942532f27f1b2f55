"""A member of a consumer group in plain gRPC, beside one of the command line."""

import signal
import subprocess
import time
import uuid

import grpc
from client import CALL_SECONDS, check_status, new_topic, numbered, produce, records
from taffrail.v1 import group_pb2, log_pb2

WAIT_SECONDS = 30


class _Member:
    """A simple member: heartbeats, fetches and commits in turn."""

    def __init__(self, broker, group, topic):
        self.broker, self.group = broker, group
        self.member_id = f"python-{uuid.uuid4()}"
        self.epoch, self.held, self.done = 0, {}, []
        self.join = group_pb2.Join(topics=[topic], session_timeout_ms=5_000)

    def beat(self, **more):
        """Says what it reads, and hears what it may read: what is not its any more it stops reading."""
        owned = [group_pb2.TopicPartition(topic=t, partition=p) for t, p in self.held]
        request = group_pb2.HeartbeatRequest(
            group=self.group,
            member_id=self.member_id,
            join=self.join if self.epoch == 0 else None,
            epoch=self.epoch,
            owned=group_pb2.Owned(partitions=owned),
            **more,
        )
        answer = self.broker.groups.Heartbeat(request, timeout=CALL_SECONDS)
        self.epoch = answer.epoch
        assigned = {(it.topic, it.partition): it for it in answer.partitions}
        known = {place: held for place, held in self.held.items() if place in assigned}
        new = [it for place, it in assigned.items() if place not in known]
        self.held = known | {(it.topic, it.partition): [it, self.committed(it)] for it in new}

    def committed(self, assigned):
        place = group_pb2.TopicPartition(topic=assigned.topic, partition=assigned.partition)
        request = group_pb2.GetOffsetsRequest(group=self.group, partitions=[place])
        offsets = self.broker.groups.GetOffsets(request, timeout=CALL_SECONDS).offsets
        return offsets[0].offset if offsets else 0

    def work(self):
        """Fetches once, and commits what it has done."""
        places = [
            log_pb2.FetchPartition(topic=t, partition=p, offset=held[1])
            for (t, p), held in self.held.items()
        ]
        if not places:
            return
        request = log_pb2.FetchRequest(partitions=places, max_wait_ms=50)
        for result in self.broker.log.Fetch(request, timeout=CALL_SECONDS).results:
            held = self.held[result.topic, result.partition]
            first = held[1]
            read = numbered(result.data.batches)
            self.done += [(result.partition, offset) for offset, _ in read if offset >= first]
            held[1] = result.next_offset
            if held[1] > first:
                self.commit(held[0], held[1])

    def commit(self, assigned, offset):
        commit = group_pb2.OffsetCommit(
            topic=assigned.topic,
            topic_id=assigned.topic_id,
            partition=assigned.partition,
            epoch=assigned.epoch,
            offset=offset,
        )
        request = group_pb2.CommitOffsetsRequest(
            group=self.group, member_id=self.member_id, offsets=[commit]
        )
        (result,) = self.broker.groups.CommitOffsets(request, timeout=CALL_SECONDS).results
        assert not result.HasField("error"), result.error

    def until(self, is_so):
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, (self.held, len(self.done))
            self.beat()
            self.work()


def a_member_in_python_shares_a_topic_with_one_of_another_kind(broker, binary):
    topic, group = new_topic(broker, partitions=4).name, "mixed"
    command = [binary, "--server", f"http://{broker.target}", "consume", topic, "--group", group]
    command += ["--format", "{partition} {offset}\\n"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        member = _Member(broker, group, topic)
        member.until(lambda: len(member.held) == 2)
        for _ in range(5):
            for partition in range(4):
                produce(broker, topic, records(*[b"x"] * 10), partition=partition)
            member.until(lambda: True)
        member.until(lambda: len(member.done) == 100)
        other.send_signal(signal.SIGINT)
        theirs = [tuple(map(int, line.split())) for line in other.communicate(timeout=20)[0].splitlines()]
        member.until(lambda: len(member.held) == 4)
        for partition in range(4):
            produce(broker, topic, records(b"y"), partition=partition)
        member.until(lambda: len(member.done) + len(theirs) >= 204)
        everything = sorted(member.done + theirs)
        assert everything == [(p, offset) for p in range(4) for offset in range(51)], everything
    finally:
        other.kill()
    known = member.epoch
    member.beat(leave=True)
    assert member.epoch == 0 and not member.held, "whoever has left has nothing"
    member.epoch = known
    check_status(member.beat, grpc.StatusCode.NOT_FOUND, "UNKNOWN_MEMBER")
