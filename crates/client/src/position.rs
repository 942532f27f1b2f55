//! Places in partitions, and the question where they are.

use taffrail_model::{Offset, PartitionIndex, Timestamp, TopicName};
use taffrail_proto::v1;

use crate::{CallError, Client, ServerError};

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first record that is still there.
    Earliest,
    /// The end of what readers may see: only what comes from now on.
    Latest,
    /// This offset.
    Offset(Offset),
    /// The first record with a timestamp at or after this one; if there is none, the end.
    Timestamp(Timestamp),
    /// So many records before the end, or the first.
    Last(u64),
}

impl From<Position> for v1::Position {
    fn from(position: Position) -> Self {
        use v1::position::At;
        let at = match position {
            Position::Earliest => At::Earliest(v1::Earliest {}),
            Position::Latest => At::Latest(v1::Latest {}),
            Position::Offset(offset) => At::Offset(offset.get()),
            Position::Timestamp(timestamp) => At::TimestampMs(timestamp.as_millis()),
            Position::Last(records) => At::Last(records),
        };
        Self { at: Some(at) }
    }
}

/// Asks where a place is in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetQuery {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
    /// The place.
    pub position: Position,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset.
    pub offset: Offset,
    /// The found record's timestamp, if one was looked for and a record is that late.
    pub timestamp: Option<Timestamp>,
    /// Offset of the first record that is still there.
    pub log_start: Offset,
    /// End of what readers may see.
    pub high_watermark: Offset,
}

impl Client {
    /// Finds offsets in several partitions; answers in the order of the queries.
    ///
    /// # Errors
    /// If the call as a whole failed. A failed query has its own error.
    pub async fn list_offsets(
        &self,
        queries: &[OffsetQuery],
    ) -> Result<Vec<Result<FoundOffset, ServerError>>, CallError> {
        let request = v1::ListOffsetsRequest {
            queries: queries
                .iter()
                .map(|query| v1::OffsetQuery {
                    topic: query.topic.to_string(),
                    partition: query.partition.get(),
                    position: Some(query.position.into()),
                })
                .collect(),
        };
        let answer = self.log_service().list_offsets(request).await;
        let answer = answer.map_err(|status| CallError::from_status(self.server(), &status))?;
        let results: Vec<_> = answer.into_inner().results.into_iter().map(found).collect();
        if results.len() == queries.len() {
            Ok(results)
        } else {
            Err(CallError::Incomplete { field: "result for every query" })
        }
    }
}

fn found(result: v1::OffsetResult) -> Result<FoundOffset, ServerError> {
    match result.error {
        Some(error) => Err(error.into()),
        None => Ok(FoundOffset {
            offset: Offset::new(result.offset),
            timestamp: result.timestamp_ms.map(Timestamp::from_millis),
            log_start: Offset::new(result.log_start),
            high_watermark: Offset::new(result.high_watermark),
        }),
    }
}
