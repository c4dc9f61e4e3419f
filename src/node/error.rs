//! The room's error.

use std::path::PathBuf;
use tonic::Code;

/// Why something in this room failed. Pod workers turn every variant into a status or an event and
/// try again; only [`Error::Setup`] during [`crate::start`] is for a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine or the configuration lacks something. Report it and give up.
    #[error("{0}")]
    Setup(String),
    /// The container runtime refused or did not answer. Retry.
    #[error("{message}")]
    Runtime {
        /// The CRI verb.
        verb: &'static str,
        /// gRPC's code.
        code: Code,
        /// The runtime's reason.
        message: String,
    },
    /// The API server refused or did not answer. Retry.
    #[error(transparent)]
    Api(#[from] client::Error),
    /// A file operation failed. Retry.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder or file cannot be waited for. Retry.
    #[error(transparent)]
    Watch(#[from] base::watch_folder::Error),
    /// An image archive is not one. Report it.
    #[error("not an image archive: {0}")]
    Archive(String),
    /// A container cannot be created from what the pod asks for: the waiting reason, and why. Retry:
    /// what is missing may appear.
    #[error("{1}")]
    Container(&'static str, String),
    /// A volume cannot be set up. Retry with an event.
    #[error("{0}")]
    Volume(String),
}

impl Error {
    /// From gRPC's status.
    pub(crate) fn runtime(verb: &'static str, status: &tonic::Status) -> Self {
        Self::Runtime { verb, code: status.code(), message: status.message().to_owned() }
    }

    /// The runtime is not there to answer, or took too long.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Runtime { code: Code::Unavailable | Code::DeadlineExceeded, .. })
    }

    /// The runtime does not know the container, sandbox or image.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Runtime { code: Code::NotFound, .. })
    }
}
