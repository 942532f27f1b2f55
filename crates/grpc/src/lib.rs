//! The gRPC front end: converts, calls the broker, converts back.
//!
//! Decides nothing and keeps no state; another front end beside it would not change the broker.

mod admin_service;
mod consume_body;
mod convert;
mod forward;
mod group_service;
mod log_service;
mod memory;
mod queue_service;
mod status;

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::{map_request, map_response};
use axum::response::Response;
use taffrail_broker::Broker;
use taffrail_proto::v1::DESCRIPTOR_SET;
use taffrail_proto::v1::admin_service_server::AdminServiceServer;
use taffrail_proto::v1::group_service_server::GroupServiceServer;
use taffrail_proto::v1::log_service_server::LogServiceServer;
use taffrail_proto::v1::queue_service_server::QueueServiceServer;
use tonic::service::Routes;

/// Everything that is served over gRPC: our services, health and reflection.
///
/// # Errors
/// If the contract that is compiled in cannot be read.
pub async fn routes(broker: Arc<Broker>) -> Result<axum::Router, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (arriving, sent) = (broker.arriving_memory().clone(), broker.read_memory().clone());
    let log = LogServiceServer::new(log_service::Service::new(Arc::clone(&broker)))
        .max_decoding_message_size(broker.config().request_bytes_max)
        .max_encoding_message_size(usize::MAX);
    let groups = GroupServiceServer::new(group_service::Service::new(Arc::clone(&broker)));
    let queues = QueueServiceServer::new(queue_service::Service::new(Arc::clone(&broker)));
    let admin = AdminServiceServer::new(admin_service::Service::new(broker));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<LogServiceServer<log_service::Service>>().await;
    reporter.set_serving::<GroupServiceServer<group_service::Service>>().await;
    reporter.set_serving::<QueueServiceServer<queue_service::Service>>().await;
    reporter.set_serving::<AdminServiceServer<admin_service::Service>>().await;
    let routes = Routes::new(log)
        .add_service(admin)
        .add_service(groups)
        .add_service(queues)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let receive = move |request: Request| {
        let counted = memory::count_until_whole(request, &arriving);
        async { counted }
    };
    let send = move |response: Response| {
        let counted = memory::count_until_sent(consume_body::replace_body(response), sent.clone());
        async { counted }
    };
    Ok(routes.prepare().into_axum_router().layer(map_request(receive)).layer(map_response(send)))
}
