//! The contract itself: what is published, what is generated, and what the broker tells are one.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::FileDescriptorProto;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind};
use taffrail_proto::v1::DESCRIPTOR_SET;
use tonic_reflection::pb::v1 as reflection;

use crate::broker::Broker;
use crate::door::{Door, soon};
use crate::published::contract;

/// Fields that the raw view reads as bytes.
const RAW: [&str; 3] = ["Delivery.data", "FetchResult.data", "RecordBatch.records"];

#[test]
fn the_compiled_descriptor_set_is_what_proto_says() {
    let compiled = DescriptorPool::decode(DESCRIPTOR_SET).expect("a descriptor set");
    for name in ["error", "log", "group", "admin"].map(|it| format!("taffrail/v1/{it}.proto")) {
        let bare = |pool: &DescriptorPool| {
            let file = pool.get_file_by_name(&name).expect("in the set");
            FileDescriptorProto { source_code_info: None, ..file.file_descriptor_proto().clone() }
        };
        assert_eq!(bare(&compiled), bare(contract()), "{name}: run `cargo xtask codegen`");
    }
}

#[test]
fn both_views_have_the_same_fields_but_for_those_read_as_bytes() {
    let pool = contract();
    let raw = pool.all_messages().filter(|message| message.package_name() == "taffrail.v1.raw");
    let mut different = BTreeSet::new();
    let mut compared = 0;
    for message in raw {
        let typed = format!("taffrail.v1.{}", message.name());
        let typed = pool.get_message_by_name(&typed).expect("in the published view");
        let fields = |message: &protox::prost_reflect::MessageDescriptor| message.fields().count();
        assert_eq!(fields(&typed), fields(&message), "{}", message.name());
        for field in message.fields() {
            let name = format!("{}.{}", message.name(), field.name());
            let other = typed.get_field(field.number()).unwrap_or_else(|| panic!("no {name}"));
            let shape = |field: &FieldDescriptor| (field.name().to_owned(), field.cardinality());
            assert_eq!(shape(&field), shape(&other), "{name}");
            if kind(&field) != kind(&other) {
                assert!(matches!(field.kind(), Kind::Bytes), "{name}");
                assert!(matches!(other.kind(), Kind::Message(_)), "{name}");
                different.insert(name);
            }
            compared += 1;
        }
    }
    assert!(compared > 80, "{compared} fields");
    assert!(different.iter().eq(RAW.iter()), "{different:?}");
}

/// A field's kind, without the package of its type.
fn kind(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(values) => values.name().to_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn reflection_lists_the_services_and_hands_out_the_published_view() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let services = reflect(
        &door,
        reflection::server_reflection_request::MessageRequest::ListServices(String::new()),
    )
    .await;
    let reflection::server_reflection_response::MessageResponse::ListServicesResponse(services) =
        services
    else {
        panic!("not a list: {services:?}")
    };
    let names: BTreeSet<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for expected in ["taffrail.v1.LogService", "taffrail.v1.AdminService", "grpc.health.v1.Health"]
    {
        assert!(names.contains(expected), "{names:?}");
    }

    let symbol = "taffrail.v1.RecordBatch".to_owned();
    let file = reflect(
        &door,
        reflection::server_reflection_request::MessageRequest::FileContainingSymbol(symbol),
    )
    .await;
    let reflection::server_reflection_response::MessageResponse::FileDescriptorResponse(file) =
        file
    else {
        panic!("not a file: {file:?}")
    };
    let file = file.file_descriptor_proto.first().expect("a file");
    let file = FileDescriptorProto::decode(file.as_slice()).expect("a file's descriptor");
    let batch = file.message_type.iter().find(|message| message.name() == "RecordBatch");
    let records = batch.expect("there").field.iter().find(|field| field.name() == "records");
    assert_eq!(records.expect("there").type_name(), ".taffrail.v1.RecordSet");
}

async fn reflect(
    door: &Door,
    request: reflection::server_reflection_request::MessageRequest,
) -> reflection::server_reflection_response::MessageResponse {
    let channel = door.channel.clone();
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let request =
        reflection::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let answer = soon(client.server_reflection_info(tokio_stream::once(request))).await;
    let mut answers = answer.expect("it answers").into_inner();
    let answer = soon(answers.message()).await.expect("no error").expect("an answer");
    answer.message_response.expect("a response")
}
