//! What went wrong, in one line or, where kustomize has it so, several.

/// Why a kustomization cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    text: String,
    /// A file was there, but is no YAML: that it is no folder either is not worth telling.
    pub(crate) malformed: bool,
}

/// What the functions of this room return.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), malformed: false }
    }

    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self { text: text.into(), malformed: true }
    }

    /// The same behind what was being done.
    pub(crate) fn within(self, doing: impl std::fmt::Display) -> Self {
        Self { text: format!("{doing}: {}", self.text), ..self }
    }
}

/// Says what was being done when something failed.
pub(crate) trait Within<T> {
    /// Puts words before an error's.
    fn within<D: std::fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Within<T> for Result<T> {
    fn within<D: std::fmt::Display>(self, doing: impl FnOnce() -> D) -> Self {
        self.map_err(|error| error.within(doing()))
    }
}

/// Says of which built-in step the configuration was wrong, and what it was.
pub(crate) fn configuring<T>(kind: &str, config: &serde_json::Value, made: Result<T>) -> Result<T> {
    made.within(|| {
        format!("trouble configuring builtin {kind} with config: `\n{}`", api::yaml::render(config))
    })
}
