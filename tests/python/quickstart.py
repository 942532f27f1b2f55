"""Produces three records and reads them back, with nothing but the stubs of proto/."""

import sys

import grpc
from taffrail.v1 import admin_pb2, admin_pb2_grpc, log_pb2, log_pb2_grpc

channel = grpc.insecure_channel(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7245")
admin, log = admin_pb2_grpc.AdminServiceStub(channel), log_pb2_grpc.LogServiceStub(channel)

topics = admin.ListTopics(admin_pb2.ListTopicsRequest()).topics
if "greetings" not in [topic.name for topic in topics]:
    admin.CreateTopic(admin_pb2.CreateTopicRequest(name="greetings"))

records = [log_pb2.Record(value=word) for word in (b"ahoy", b"moin", b"hello")]
batch = log_pb2.RecordBatch(records=log_pb2.RecordSet(records=records))
request = log_pb2.ProduceRequest(batches=[log_pb2.ProduceBatch(topic="greetings", batch=batch)])
print("on disk from offset", log.Produce(request).results[0].base_offset)

place = log_pb2.FetchPartition(topic="greetings", partition=0, offset=0)
for result in log.Fetch(log_pb2.FetchRequest(partitions=[place])).results:
    for batch in result.data.batches:
        for index, record in enumerate(batch.records.records):
            print(batch.base_offset + index, record.value.decode())
