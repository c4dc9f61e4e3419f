//! A terminal with a program in it, which types and reads as a person does.

use super::process::{command, run, wait_for};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long anything that is typed may take to have its effect.
const SOON: Duration = Duration::from_secs(60);

/// See the module's comment.
pub(crate) struct Terminal {
    keyboard: File,
    /// Kept, so that it can be asked how it is set.
    line: OwnedFd,
    child: Child,
    shown: Arc<Mutex<String>>,
    /// How much of it was read.
    read: usize,
}

impl Terminal {
    /// Starts a command, which has to make a session of its own (`setsid --ctty`), in a terminal of 80 by 24.
    pub(crate) fn new(mut command: Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        let copy = || pair.slave.try_clone().unwrap();
        command.stdin(copy()).stdout(copy()).stderr(copy());
        let child = command.spawn().unwrap();
        let keyboard = File::from(pair.master);
        let mut screen = keyboard.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let seen = shown.clone();
        // Ends when nobody has the terminal any more.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { keyboard, line: pair.slave, child, shown, read: 0 }
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Types.
    pub(crate) fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until a text is shown that was not read yet; gives what came before it.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let deadline = base::clock::instant() + SOON;
        wait_for("text", SOON * 2, || {
            let shown = self.shown();
            let rest = &shown[self.read..];
            if let Some(at) = rest.find(text) {
                let before = rest[..at].to_owned();
                self.read += at + text.len();
                return Some(before);
            }
            assert!(base::clock::instant() < deadline, "there is no {text:?} in {shown:?}");
            None
        })
    }

    /// Whether keys are handed on as they are typed.
    pub(crate) fn is_raw(&self) -> bool {
        !tcgetattr(&self.line).unwrap().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Changes the size.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let path: PathBuf = nix::unistd::ttyname(&self.line).unwrap();
        let mut stty = command("stty");
        stty.arg("-F").arg(path).args(["rows", &rows.to_string(), "cols", &columns.to_string()]);
        run(stty, "").ok();
    }

    /// Waits for the end; the exit code, with the terminal set as it was.
    #[track_caller]
    pub(crate) fn end(mut self) -> i32 {
        let code = wait_for("end of a session", SOON, || {
            self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
        });
        assert!(!self.is_raw(), "the terminal was not set back: {:?}", self.shown());
        code
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- terminal\n{}", self.shown());
        }
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}
