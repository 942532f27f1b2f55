//! Plain HTTP beside gRPC: `/healthz` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use taffrail_broker::Broker;

use crate::accept::Connections;
use crate::metrics;

#[derive(Clone)]
struct Parts {
    broker: Arc<Broker>,
    connections: Arc<Connections>,
}

pub(crate) fn routes(broker: Arc<Broker>, connections: Arc<Connections>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(metrics_text))
        .with_state(Parts { broker, connections })
}

/// Whether the broker serves, and which one it is.
async fn health(State(parts): State<Parts>) -> impl IntoResponse {
    let stopping = parts.broker.is_stopping();
    let status = if stopping { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = serde_json::json!({
        "status": if stopping { "stopping" } else { "ok" },
        "version": env!("CARGO_PKG_VERSION"),
        "process": std::process::id(),
        "data": parts.broker.directory().path(),
    });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string())
}

async fn metrics_text(State(parts): State<Parts>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics::text(&parts.broker, &parts.connections).await {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text),
        Err(error) => {
            let text = error.to_string();
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], text)
        }
    }
}
