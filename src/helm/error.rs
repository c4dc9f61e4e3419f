//! Why a chart is not installed.

/// What went wrong with a chart. All are reported in the HelmChart's conditions and tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is asked for cannot be done; it helps to change the HelmChart or what it refers to.
    #[error("{0}")]
    Wrong(String),
    /// The API refused something, or was not reached. What was being done stands before.
    #[error("{doing}: {source}")]
    Api {
        /// What was being done.
        doing: String,
        /// What the API said.
        source: client::Error,
    },
    /// A chart could not be brought here.
    #[error("the chart cannot be fetched from {from}: {why}")]
    Fetch {
        /// An address, without credentials.
        from: String,
        /// What is wrong there.
        why: String,
    },
}

impl Error {
    pub(crate) fn api(doing: impl Into<String>) -> impl FnOnce(client::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Api { doing, source }
    }
}

impl From<String> for Error {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}
