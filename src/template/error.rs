//! Errors in the words of Go's library.

use std::fmt;

/// What is wrong with a template or what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// `NAME:LINE` or `NAME:LINE:COLUMN`, or the name alone where no place is known, or "".
    pub place: String,
    /// The template and the part of it that was carried out; none for what cannot be read.
    pub executing: Option<(String, String)>,
    /// What went wrong there. Where a function failed because of a template, it ends before that's error.
    pub message: String,
    /// What went wrong in the template that a function called.
    pub cause: Option<Box<Error>>,
    /// It was said by the template itself (`fail`), and needs no place in the program.
    pub said: bool,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("template: ")?;
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        if let Some((name, context)) = &self.executing {
            write!(f, "executing {} at <{context}>: ", crate::quote(name))?;
        }
        f.write_str(&self.message)?;
        match &self.cause {
            Some(cause) => write!(f, "{cause}"),
            None => Ok(()),
        }
    }
}

impl Error {
    /// This error, what caused it, and so on.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |error| error.cause.as_deref())
    }

    /// The innermost error.
    pub fn root(&self) -> &Self {
        self.cause.as_ref().map_or(self, |cause| cause.root())
    }
}

/// Why a function gave no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It says so.
    Said(String),
    /// A value of the wrong type was given as the argument of this number, from 0.
    Argument(usize, String),
    /// A template it called failed; what is said before.
    Template(String, Box<Error>),
    /// The template asked to fail with these words.
    Asked(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Said(why)
    }
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        Self::Said(why.to_owned())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Template(String::new(), Box::new(error))
    }
}
