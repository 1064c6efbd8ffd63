//! The one error type: what happened, where, and what to do next.
//!
//! An [`Error`] means the work cannot go on. Damage or doubt that the work can live with is a
//! [`Finding`](crate::model::finding::Finding) instead. The kind decides the exit code
//! ([`ErrorKind::exit_code`]) and nothing else; the text is for a tired person and names the path, the layer
//! and the offset.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Whose problem an [`Error`] is; each kind has one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The work was done and then found wrong: a verification failed. Exit code 1.
    Unverified,
    /// Bad usage or configuration, or something the environment lacks. Exit code 2.
    Usage,
    /// The source is unusable: broken chain, damaged metadata, unreadable data. Exit code 3.
    Source,
    /// I/O failed on the output side: no space, device error, closed pipe. Exit code 4.
    Output,
    /// A guard refused; the hint names the flag that gives leave, if there is one. Exit code 5.
    Refused,
    /// An outside program or the cluster failed. Exit code 6.
    External,
    /// A signal asked the work to stop. Exit code 130.
    Interrupted,
}

impl ErrorKind {
    /// The process exit code of this kind, as DESIGN and the man page list them.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Unverified => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Source => 3,
            ErrorKind::Output => 4,
            ErrorKind::Refused => 5,
            ErrorKind::External => 6,
            ErrorKind::Interrupted => 130,
        }
    }
}

/// Something that ends the work.
///
/// Built with a constructor per kind and refined with the `with_` and `in_` methods:
///
/// ```
/// use lhrecover::error::Error;
/// let e = Error::source("cannot read layer").in_layer("volume-snap-a.img").at_offset(4096);
/// assert_eq!(e.to_string(), "cannot read layer: layer volume-snap-a.img, offset 4096");
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    what: String,
    path: Option<PathBuf>,
    layer: Option<String>,
    offset_bytes: Option<u64>,
    hint: Option<String>,
    cause: Option<io::Error>,
}

impl Error {
    /// An error of the given kind; `what` is lower case and has no full stop.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            what: what.into(),
            path: None,
            layer: None,
            offset_bytes: None,
            hint: None,
            cause: None,
        }))
    }

    /// Bad usage, or something the environment lacks.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, what)
    }

    /// The source cannot be used.
    pub fn source(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Source, what)
    }

    /// The output side failed.
    pub fn output(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Output, what)
    }

    /// A guard refused.
    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, what)
    }

    /// A signal arrived.
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    /// Names the file or directory the error is about.
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_path_buf());
        self
    }

    /// Names the layer (the image's file name) the error is about.
    pub fn in_layer(mut self, layer: impl Into<String>) -> Self {
        self.0.layer = Some(layer.into());
        self
    }

    /// Says at which byte of the volume or file it happened.
    pub fn at_offset(mut self, offset_bytes: u64) -> Self {
        self.0.offset_bytes = Some(offset_bytes);
        self
    }

    /// Says what to do next.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds to what to do next.
    pub fn and(mut self, more: &str) -> Self {
        self.0.hint = Some(self.0.hint.map_or_else(|| more.to_owned(), |hint| format!("{hint}; {more}")));
        self
    }

    /// Attaches what the operating system said.
    pub fn caused_by(mut self, cause: io::Error) -> Self {
        self.0.cause = Some(cause);
        self
    }

    /// What happened, without where.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Whose problem this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do next, if there is something to do.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The layer (the image's file name) the error is about.
    pub fn layer(&self) -> Option<&str> {
        self.0.layer.as_deref()
    }

    /// The path the error is about.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset the error is about.
    pub fn offset_bytes(&self) -> Option<u64> {
        self.0.offset_bytes
    }

    /// The operating system's error, if one is behind this.
    pub fn io_cause(&self) -> Option<&io::Error> {
        self.0.cause.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        f.write_str(&e.what)?;
        let mut separator = ": ";
        if let Some(path) = &e.path {
            write!(f, "{separator}{}", path.display())?;
            separator = ", ";
        }
        if let Some(layer) = &e.layer {
            write!(f, "{separator}layer {layer}")?;
            separator = ", ";
        }
        if let Some(offset) = e.offset_bytes {
            write!(f, "{separator}offset {offset}")?;
        }
        if let Some(cause) = &e.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_ref().map(|c| c as _)
    }
}
