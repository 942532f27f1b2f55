//! What the broker says when it refuses, and why a call as a whole can fail.
//!
//! What the broker itself says is always a [`ServerError`]; whether a refused request may be sent
//! again is decided in `retry`, not here. Producer and consumer have their own errors.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use taffrail_model::{NameError, PartitionIndex, TopicName, limits};
use taffrail_proto::v1;
use tonic_types::StatusExt as _;

/// What the broker says when it refuses something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({reason})")]
pub struct ServerError {
    /// For programs: in capitals and stable, such as `UNKNOWN_TOPIC`.
    pub reason: String,
    /// For people: what happened, and what to do next.
    pub message: String,
    /// The numbers and names a caller needs, by name.
    pub metadata: BTreeMap<String, String>,
    /// If present, the same request may succeed after this time.
    pub retry_after: Option<Duration>,
}

impl ServerError {
    /// The request that this one was refused for, if it says so.
    pub(crate) fn refused(&self) -> Option<u64> {
        self.metadata.get("refused")?.parse().ok()
    }
}

impl From<v1::Error> for ServerError {
    fn from(error: v1::Error) -> Self {
        Self {
            reason: error.reason,
            message: error.message,
            metadata: error.metadata.into_iter().collect(),
            retry_after: error.retry_after_ms.map(|millis| Duration::from_millis(millis.into())),
        }
    }
}

/// Why a server's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not a server's address: write it like http://127.0.0.1:7245")]
pub struct AddressError {
    /// What was given.
    pub url: String,
    /// What is wrong with it.
    #[source]
    pub cause: tonic::transport::Error,
}

/// Why a call failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There was no answer of the broker: no connection, or it broke. What the call asked for may
    /// or may not have happened.
    #[error("cannot reach {server}: {cause}")]
    Unreachable {
        /// The server's address.
        server: String,
        /// What happened.
        cause: String,
    },
    /// The broker refused it.
    #[error(transparent)]
    Refused(#[from] ServerError),
    /// The answer lacks what the contract promises.
    #[error("the broker's answer has no {field}: do client and broker have matching versions?")]
    Incomplete {
        /// What is missing.
        field: &'static str,
    },
}

impl CallError {
    /// Reads a status: with Taffrail's details it is the broker's word; without, a code that says
    /// "no connection" is just that.
    pub(crate) fn from_status(server: &str, status: &tonic::Status) -> Self {
        use tonic::Code;
        let details = status.get_error_details();
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        if let Some(info) = details.error_info() {
            return Self::Refused(ServerError {
                reason: info.reason.clone(),
                message: status.message().to_owned(),
                metadata: info.metadata.clone().into_iter().collect(),
                retry_after,
            });
        }
        match status.code() {
            Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Aborted
            | Code::Ok => Self::Unreachable { server: server.to_owned(), cause: causes(status) },
            code @ (Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated) => Self::Refused(ServerError {
                reason: code_name(code).to_owned(),
                message: status.message().to_owned(),
                metadata: BTreeMap::new(),
                retry_after,
            }),
        }
    }
}

/// A status and what caused it, innermost last, without what is said twice.
fn causes(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}

fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Why a producer or a consumer could not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The topic's name cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The topic could not be described, or an idempotent producer not be made.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The topic has no such partition.
    #[error("the topic {topic} has no partition {partition}: it has {partitions}, numbered from 0")]
    NoSuchPartition {
        /// The topic.
        topic: TopicName,
        /// The partition asked for.
        partition: PartitionIndex,
        /// Number of partitions it has.
        partitions: u32,
    },
    /// The producer's name cannot be one.
    #[error("a producer's name has 1 to {} bytes, not {bytes}", limits::PRODUCER_NAME_BYTES_MAX)]
    ProducerName {
        /// Bytes it has.
        bytes: usize,
    },
    /// A producer with a name does not wait for acknowledgement.
    #[error(
        "the producer {name:?} must wait for acknowledgements: a name takes acks=committed, not none"
    )]
    NameWithoutAcks {
        /// The producer's name.
        name: String,
    },
    /// A consumer was given nothing to read.
    #[error("nothing to consume: name at least one topic")]
    NoTopics,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_with_details_is_the_brokers_word() {
        let details = tonic_types::ErrorDetails::with_error_info(
            "UNKNOWN_TOPIC",
            "taffrail",
            [("topic".to_owned(), "orders".to_owned())],
        );
        let status = tonic::Status::with_error_details(tonic::Code::NotFound, "no topic", details);
        let CallError::Refused(error) = CallError::from_status("http://x", &status) else {
            panic!("not refused");
        };
        assert_eq!(error.reason, "UNKNOWN_TOPIC");
        assert_eq!(error.metadata["topic"], "orders");
    }

    #[test]
    fn a_status_without_details_tells_a_lost_connection_from_a_refusal() {
        let lost = CallError::from_status("http://x", &tonic::Status::unavailable("tcp"));
        assert!(matches!(lost, CallError::Unreachable { .. }), "{lost:?}");
        let refused = CallError::from_status("http://x", &tonic::Status::unimplemented("what?"));
        assert!(matches!(&refused, CallError::Refused(e) if e.reason == "UNIMPLEMENTED"));
    }
}
