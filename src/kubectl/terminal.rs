//! The terminal: raw mode while a command runs in a container, and its size.

use crate::error::Error;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Raw mode, left again when this is dropped.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Enters raw mode; none where standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0) {
            eprintln!("the terminal could not be set back ({error}): type `reset`");
        }
    }
}

/// The terminal's size, or one larger by `more` both ways, as the resize channel carries it; none where there is no
/// terminal.
pub(crate) fn size(more: u16) -> Option<String> {
    let (width, height) = terminal_size::terminal_size()?;
    let larger = |cells: u16| cells.saturating_add(more);
    Some(serde_json::json!({"Width": larger(width.0), "Height": larger(height.0)}).to_string())
}

/// The signals that end this process, heard so that the terminal is set back first.
pub(crate) struct Endings([Signal; 4]);

impl Endings {
    pub(crate) fn listen() -> Result<Self, Error> {
        let heard = |kind| signal(kind).map_err(|error| Error::plain(error.to_string()));
        Ok(Self([
            heard(SignalKind::interrupt())?,
            heard(SignalKind::terminate())?,
            heard(SignalKind::hangup())?,
            heard(SignalKind::quit())?,
        ]))
    }

    /// Completes when one of them came.
    pub(crate) async fn recv(&mut self) {
        let [interrupt, terminate, hangup, quit] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    }
}
