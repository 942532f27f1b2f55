"""Topics, as a client of another language sees them."""

import grpc
from client import CALL_SECONDS, check_status, new_topic
from taffrail.v1 import admin_pb2


def a_topic_is_created_listed_and_described(broker):
    topic = new_topic(broker, partitions=3)
    assert len(topic.id) == 24 and set(topic.id) <= set("0123456789abcdef"), topic
    listed = broker.admin.ListTopics(admin_pb2.ListTopicsRequest(), timeout=CALL_SECONDS).topics
    assert topic.name in [other.name for other in listed]
    assert listed == sorted(listed, key=lambda other: other.name)

    request = admin_pb2.DescribeTopicRequest(name=topic.name)
    described = broker.admin.DescribeTopic(request, timeout=CALL_SECONDS)
    assert described.topic.id == topic.id and described.topic.partitions == 3
    assert [partition.partition for partition in described.partitions] == [0, 1, 2]
    for partition in described.partitions:
        assert partition.status == admin_pb2.PARTITION_STATUS_ONLINE, partition
        assert partition.log_start == partition.high_watermark == 0, partition


def a_topic_shows_the_settings_it_was_given(broker):
    topic = new_topic(broker, durability="page_cache")
    settings = {setting.name: setting for setting in topic.settings}
    assert settings["durability"].value == "page_cache", settings
    assert not settings["durability"].is_default
    assert settings["max.batch.bytes"].is_default


def a_name_that_is_taken_is_refused(broker):
    request = admin_pb2.CreateTopicRequest(name=new_topic(broker).name)
    call = lambda: broker.admin.CreateTopic(request, timeout=CALL_SECONDS)
    check_status(call, grpc.StatusCode.ALREADY_EXISTS, "TOPIC")


def a_topic_that_is_not_there_is_not_found(broker):
    request = admin_pb2.DescribeTopicRequest(name="no-such-topic")
    call = lambda: broker.admin.DescribeTopic(request, timeout=CALL_SECONDS)
    check_status(call, grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC")


def a_topic_is_gone_once_deleted(broker):
    topic = new_topic(broker)
    request = admin_pb2.DeleteTopicRequest(name=topic.name)
    broker.admin.DeleteTopic(request, timeout=CALL_SECONDS)
    listed = broker.admin.ListTopics(admin_pb2.ListTopicsRequest(), timeout=CALL_SECONDS).topics
    assert topic.name not in [other.name for other in listed]


def the_broker_describes_itself(broker):
    described = broker.admin.DescribeBroker(
        admin_pb2.DescribeBrokerRequest(), timeout=CALL_SECONDS
    )
    assert described.version and len(described.directory_id) == 32, described
    assert described.limits, described
