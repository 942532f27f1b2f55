//! Prints records as they come.

use std::io::{self, Write as _};

use anyhow::bail;
use futures_util::FutureExt as _;
use taffrail_client::proto::GapReason;
use taffrail_client::{ConsumedBatch, Consumer, Event, Offset, TopicPartition};

use crate::output::Output;
use crate::render::{Placed, Renderer};

/// Bytes gathered before they are written, while more is at hand.
const WRITE_BYTES: usize = 64 << 10;

/// Prints what a consumer gets.
pub(super) struct Printer {
    renderer: Renderer,
    /// What is not written yet.
    out: Vec<u8>,
    /// Records still to print.
    left: u64,
    output: Output,
}

impl Printer {
    pub(super) fn new(renderer: Renderer, count: Option<u64>, output: Output) -> Self {
        let (out, left) = (Vec::with_capacity(2 * WRITE_BYTES), count.unwrap_or(u64::MAX));
        Self { renderer, out, left, output }
    }

    /// Whether it has printed all that it should.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Prints all that a consumer gets.
    pub(super) async fn print(mut self, mut consumer: Consumer) -> anyhow::Result<()> {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        while !self.is_done() && interrupted.as_mut().now_or_never().is_none() {
            // Writes what it has before it waits.
            let event = match consumer.next_event().now_or_never() {
                Some(event) => event,
                None => {
                    self.flush()?;
                    tokio::select! {
                        event = consumer.next_event() => event,
                        _ = &mut interrupted => break,
                    }
                }
            };
            match event {
                None => break,
                Some(Ok(Event::Batch(batch))) => drop(self.batch(&batch)?),
                Some(Ok(Event::Gap { topic, partition, from, to, reason })) => {
                    let place = TopicPartition::new(topic, partition);
                    self.gap(&place, from, to, reason)?;
                }
                Some(Ok(Event::Heartbeat { .. })) => {}
                Some(Err(error)) => {
                    self.flush()?;
                    return Err(error.into());
                }
            }
        }
        self.flush()?;
        Ok(())
    }

    pub(super) fn gap(
        &mut self,
        place: &TopicPartition,
        from: Offset,
        to: Offset,
        reason: GapReason,
    ) -> io::Result<()> {
        if reason == GapReason::Compaction {
            // What it takes away is no news: of each key the latest record is there.
            return Ok(());
        }
        self.flush()?;
        let reason = reason.as_str_name().trim_start_matches("GAP_REASON_");
        let reason = reason.to_lowercase().replace('_', " ");
        self.output.note(format_args!("{place}: no records from {from} to before {to}: {reason}"));
        Ok(())
    }

    /// Prints a batch; the first offset that was not printed, if that was enough before its end.
    pub(super) fn batch(&mut self, batch: &ConsumedBatch) -> anyhow::Result<Option<Offset>> {
        for record in batch.records() {
            let Ok(record) = record else {
                self.flush()?;
                bail!(
                    "{}/{}: a record of the batch at offset {} cannot be read: its producer made \
                     it so",
                    batch.topic,
                    batch.partition,
                    batch.batch.header.base_offset,
                );
            };
            if self.is_done() {
                return Ok(Some(record.offset));
            }
            self.left -= 1;
            let placed = Placed { topic: &batch.topic, partition: batch.partition, record };
            self.renderer.render(placed, &mut self.out);
            if self.out.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        Ok(None)
    }

    /// Writes what it has.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(&self.out)?;
        self.out.clear();
        stdout.flush()
    }
}
