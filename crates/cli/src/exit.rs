//! How a failed command ends: a message with the cause and the next step, and an exit code.

use std::error::Error;
use std::io::{ErrorKind, IsTerminal as _};
use std::process::ExitCode;

use taffrail_client::{
    AddressError, CallError, ConsumeError, NameError, ProduceError, ServerError, StartError,
};
use taffrail_log::RestoreError;
use taffrail_server::SettingsError;

use crate::output::say;
use crate::place::PlaceError;

/// Why a command failed, as far as its exit code tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Who read the output has gone: nothing to complain about.
    ClosedPipe,
    Failed,
    /// The arguments are wrong.
    Usage,
    Refused,
    Unreachable,
    /// There is something to do, and nobody said to do it.
    Undone,
}

/// Arguments that do not go together, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Why nothing was done although something could be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NothingDone(pub(crate) String);

/// Says on standard error what happened, and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let kind = error.chain().find_map(kind).unwrap_or(Kind::Failed);
    let code = match kind {
        Kind::ClosedPipe => return ExitCode::SUCCESS,
        Kind::Failed => 1,
        Kind::Usage => 2,
        Kind::Refused => 3,
        Kind::Unreachable => 4,
        Kind::Undone => 5,
    };
    let is_plain = !std::io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    let label = if is_plain { "error:" } else { "\x1b[1;31merror:\x1b[0m" };
    let mut text = format!("{label} {}", text(error));
    if kind == Kind::Unreachable {
        text.push_str(
            "\n  is the broker running? `taffrail serve` starts one; --server or TAFFRAIL_SERVER \
             names another",
        );
    }
    say(text);
    ExitCode::from(code)
}

/// The chain of causes, without what is said twice.
fn text(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn kind(error: &(dyn Error + 'static)) -> Option<Kind> {
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return (error.kind() == ErrorKind::BrokenPipe).then_some(Kind::ClosedPipe);
    }
    let is_usage = error.is::<Usage>() || error.is::<AddressError>() || error.is::<SettingsError>();
    if is_usage || error.is::<NameError>() || error.is::<PlaceError>() {
        return Some(Kind::Usage);
    }
    if let Some(error) = error.downcast_ref::<RestoreError>() {
        return is_place(error).then_some(Kind::Usage);
    }
    if error.is::<NothingDone>() {
        return Some(Kind::Undone);
    }
    if error.is::<ServerError>() {
        return Some(Kind::Refused);
    }
    if let Some(error) = error.downcast_ref::<CallError>() {
        return Some(call_kind(error));
    }
    match error.downcast_ref::<StartError>() {
        Some(StartError::Call(error)) => return Some(call_kind(error)),
        Some(_) => return Some(Kind::Usage),
        None => {}
    }
    if let Some(ProduceError::Refused(_) | ProduceError::Fenced) =
        error.downcast_ref::<ProduceError>()
    {
        return Some(Kind::Refused);
    }
    match error.downcast_ref::<ConsumeError>()? {
        ConsumeError::Partition { .. } | ConsumeError::Refused(_) => Some(Kind::Refused),
        ConsumeError::Corrupt { .. }
        | ConsumeError::Malformed { .. }
        | ConsumeError::Unopened { .. } => Some(Kind::Failed),
    }
}

/// Whether it is the directories that are wrong, and not what happened to them.
fn is_place(error: &RestoreError) -> bool {
    match error {
        RestoreError::NoBackup { .. }
        | RestoreError::Served { .. }
        | RestoreError::InUse { .. }
        | RestoreError::NotEmpty { .. }
        | RestoreError::MountPoint { .. }
        | RestoreError::Within { .. } => true,
        RestoreError::Replaced { .. }
        | RestoreError::StorageFull { .. }
        | RestoreError::Io { .. }
        | RestoreError::Inspect(_) => false,
    }
}

fn call_kind(error: &CallError) -> Kind {
    match error {
        CallError::Unreachable { .. } => Kind::Unreachable,
        CallError::Refused(_) => Kind::Refused,
        CallError::Incomplete { .. } => Kind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[track_caller]
    fn check(error: impl Error + Send + Sync + 'static, expected: Kind) {
        let error = Err::<(), _>(error).context("while doing something").expect_err("an error");
        assert_eq!(error.chain().find_map(kind).unwrap_or(Kind::Failed), expected, "{error:#}");
    }

    #[test]
    fn exit_codes_tell_a_refusal_from_a_lost_connection() {
        let refused = ServerError {
            reason: "UNKNOWN_TOPIC".to_owned(),
            message: "no".to_owned(),
            metadata: std::collections::BTreeMap::new(),
            retry_after: None,
        };
        let lost = CallError::Unreachable { server: "x".to_owned(), cause: "y".to_owned() };
        check(CallError::Refused(refused.clone()), Kind::Refused);
        check(ProduceError::Refused(refused.clone()), Kind::Refused);
        check(ConsumeError::Refused(refused), Kind::Refused);
        check(StartError::Call(lost.clone()), Kind::Unreachable);
        check(StartError::NoTopics, Kind::Usage);
        check(Usage("no".to_owned()), Kind::Usage);
        check(NothingDone("no".to_owned()), Kind::Undone);
        check(lost, Kind::Unreachable);
        check(std::io::Error::from(ErrorKind::BrokenPipe), Kind::ClosedPipe);
        check(std::io::Error::from(ErrorKind::NotFound), Kind::Failed);
        check(ProduceError::Closed, Kind::Failed);
    }
}
