//! Names of topics.

use std::fmt;
use std::sync::Arc;

use crate::limits;

/// A topic's name: letters, digits, `.`, `_` and `-`, at most 200 of them. Cheap to clone.
///
/// Names that begin with `__` are the broker's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a text is not a topic's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("the topic name is empty: give it a name such as `orders`")]
    Empty,
    /// Longer than a name may be.
    #[error("the topic name has {found} bytes; at most {max} are allowed")]
    TooLong {
        /// Bytes it has.
        found: usize,
        /// Bytes it may have.
        max: usize,
    },
    /// Something a name cannot hold.
    #[error(
        "the topic name {name:?} has the character {character:?}: use letters, digits, `.`, `_` and `-`"
    )]
    Character {
        /// The text.
        name: String,
        /// What it should not hold.
        character: char,
    },
    /// `.` and `..` mean something to every file system.
    #[error("the topic name {name:?} is only dots: use at least one letter or digit")]
    OnlyDots {
        /// The text.
        name: String,
    },
}

impl TopicName {
    /// Parses a name.
    ///
    /// # Errors
    /// If it is empty, too long, only dots, or has a character that names cannot hold.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > limits::TOPIC_NAME_BYTES_MAX {
            return Err(NameError::TooLong {
                found: text.len(),
                max: limits::TOPIC_NAME_BYTES_MAX,
            });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(character) = text.chars().find(|c| !allowed(*c)) {
            return Err(NameError::Character { name: text.to_owned(), character });
        }
        if text.bytes().all(|byte| byte == b'.') {
            return Err(NameError::OnlyDots { name: text.to_owned() });
        }
        Ok(Self(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of the broker's own.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_digits_dots_underscores_and_dashes() {
        for good in ["a", "orders.v1", "__catalog", "A-b_c.9", &"x".repeat(200)] {
            assert_eq!(TopicName::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", ".", "..", "a b", "a/b", "é", "a\0", &"x".repeat(201)] {
            assert!(TopicName::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
