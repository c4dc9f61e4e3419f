//! The terminal: raw mode while a command runs in a container, and its size.

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::IsTerminal;

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

/// The terminal's size as the resize channel carries it, or none where there is no terminal.
pub(crate) fn size() -> Option<String> {
    let (width, height) = terminal_size::terminal_size()?;
    Some(serde_json::json!({"Width": width.0, "Height": height.0}).to_string())
}
