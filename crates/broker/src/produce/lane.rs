//! Keeps the order of one stream in one partition.

use std::sync::{Mutex, PoisonError};

use super::ProduceError;

/// What one stream knows of one partition: whether something was refused, and what.
///
/// Only whoever has the partition's log asks and tells, in the order of its queue.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    refused: Mutex<Option<u64>>,
}

impl Lane {
    /// Whether a request may go on. Answers come in order: who knows of a later one knows of this.
    pub(crate) fn admit(&self, resumes_after: u64) -> Result<(), ProduceError> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match *refused {
            Some(number) if resumes_after < number => {
                Err(ProduceError::PrecedingFailed { refused: number })
            }
            _ => {
                *refused = None;
                Ok(())
            }
        }
    }

    /// Takes note that a request was refused by itself, or has an unknown result. Returns the one in front of it that was
    /// refused before, if that is why it cannot be appended.
    pub(crate) fn refuse(&self, number: u64) -> Option<u64> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let before = refused.filter(|before| *before < number);
        if before.is_none() {
            *refused = Some(number);
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_refusal_only_the_one_that_knows_of_it_goes_on() {
        let lane = Lane::default();
        assert!(lane.admit(0).is_ok());
        assert_eq!(lane.refuse(5), None);
        assert_eq!(lane.refuse(4), None, "it came in front of 5, and was refused later");
        assert_eq!(lane.refuse(6), Some(4));
        assert!(matches!(lane.admit(0), Err(ProduceError::PrecedingFailed { refused: 4 })));
        assert!(matches!(lane.admit(3), Err(ProduceError::PrecedingFailed { refused: 4 })));
        assert!(lane.admit(4).is_ok());
        assert_eq!((lane.refuse(7), lane.refuse(8)), (None, Some(7)));
        assert!(lane.admit(8).is_ok(), "who knows of 8 knows of 7");
        assert!(lane.admit(0).is_ok());
    }
}
