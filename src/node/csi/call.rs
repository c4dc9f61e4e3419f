//! Calls of drivers, each with a time limit, and what their errors mean.

use crate::plugins::in_go_words;
use crate::turns::Turn;
use crate::{Context, Error};
use futures_util::future::BoxFuture;
use std::future::Future;
use std::time::Duration;
use tonic::{Code, Response, Status};

/// How long a driver may take, as Kubernetes gives it.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// Why a driver did not do what it was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    message: String,
}

impl Failure {
    /// The driver was not even asked; an earlier call may still be under way.
    pub(super) fn before(message: String) -> Self {
        Self { code: Code::Unavailable, message }
    }

    /// Nothing is under way any more: what was made for the call can be removed.
    pub(super) fn is_final(&self) -> bool {
        !matches!(
            self.code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Unavailable
                | Code::ResourceExhausted
                | Code::Aborted
        )
    }

    /// It will not do in this state of the volume, and has not to be asked again.
    pub(super) fn is_precondition(&self) -> bool {
        self.code == Code::FailedPrecondition
    }

    /// It will never do.
    pub(super) fn is_infeasible(&self) -> bool {
        matches!(self.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound)
    }
}

#[cfg(test)]
impl Failure {
    pub(super) fn of(code: Code, message: &str) -> Self {
        Self { code, message: message.to_owned() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Volume(failure.message)
    }
}

/// Waits for a driver's answer.
pub(super) async fn call<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
    let status = match tokio::time::timeout(LIMIT, answer).await {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => Status::deadline_exceeded("context deadline exceeded"),
    };
    Err(Failure { code: status.code(), message: in_go_words(&status) })
}

/// Asks a driver in a volume's turn, and has it answer.
pub(super) async fn in_turn<T: Send + 'static>(
    context: &Context,
    turn: &Turn,
    answer: BoxFuture<'static, Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    let answered = turn.to_the_end(context, Box::pin(call(answer))).await;
    answered.unwrap_or_else(|error| Err(Failure::before(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_be_under_way_is_not_cleaned_up() {
        let failure = |status: Status| Failure { code: status.code(), message: in_go_words(&status) };
        let boom = failure(Status::internal("boom"));
        assert!(boom.is_final());
        assert_eq!(Error::from(boom).to_string(), "rpc error: code = Internal desc = boom");
        assert!(!failure(Status::unavailable("")).is_final() && !failure(Status::aborted("")).is_final());
    }
}
