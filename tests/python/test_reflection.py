"""Reflection: tools such as grpcurl learn the contract from the broker itself."""

from client import CALL_SECONDS
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from google.protobuf import descriptor_pb2


def _ask(broker, **request):
    stub = reflection_pb2_grpc.ServerReflectionStub(broker.channel)
    request = reflection_pb2.ServerReflectionRequest(**request)
    return next(iter(stub.ServerReflectionInfo(iter([request]), timeout=CALL_SECONDS)))


def reflection_lists_the_services(broker):
    services = _ask(broker, list_services="").list_services_response.service
    names = {service.name for service in services}
    assert {"taffrail.v1.LogService", "taffrail.v1.AdminService"} <= names, names


def reflection_serves_the_typed_view(broker):
    answer = _ask(broker, file_containing_symbol="taffrail.v1.RecordBatch")
    protos = answer.file_descriptor_response.file_descriptor_proto
    files = [descriptor_pb2.FileDescriptorProto.FromString(proto) for proto in protos]
    messages = {message.name: message for file in files for message in file.message_type}
    fields = {field.name: field.type_name for field in messages["RecordBatch"].field}
    assert fields["records"] == ".taffrail.v1.RecordSet", fields
