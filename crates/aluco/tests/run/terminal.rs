//! A pretended terminal with a program in it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::home::PATIENCE;

/// A terminal, seen from where its keys are pressed and its screen is looked at.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// The beginning of a letter, whose rest has not come yet.
    begun: Vec<u8>,
    /// What was shown since the last expectation was met.
    shown: String,
}

impl Terminal {
    /// One that does not say how large it is.
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::begin(command, None, None)
    }

    /// One of so many columns and rows.
    pub(crate) fn of_size(command: &mut Command, columns: u16, rows: u16) -> Self {
        Self::begin(command, Some((columns, rows)), None)
    }

    /// Standard output is not the terminal.
    pub(crate) fn with_output(command: &mut Command, output: Stdio) -> Self {
        Self::begin(command, None, Some(output))
    }

    fn begin(command: &mut Command, size: Option<(u16, u16)>, output: Option<Stdio>) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        if let Some((columns, rows)) = size {
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&keys, size).unwrap();
        }
        let name = ptsname(&keys, Vec::new()).unwrap();
        let screen_end = || {
            let mut options = OpenOptions::new();
            let opened = options.read(true).write(true).open(name.to_str().unwrap());
            Stdio::from(opened.unwrap())
        };
        let child = command
            .stdin(screen_end())
            .stdout(output.unwrap_or_else(screen_end))
            .stderr(screen_end())
            .spawn()
            .unwrap();
        // The command would keep the terminal in use.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let keys = File::from(keys);
        let mut output = keys.try_clone().unwrap();
        let (sender, screen) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A terminal whose last user is gone gives an error.
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            keys,
            screen,
            begun: Vec::new(),
            shown: String::new(),
        }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, and forgets what was before its end. Gives what stood before it.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let at = self.look(text, |shown| shown.find(text));
        let before = self.shown[..at].to_owned();
        self.shown.drain(..at + text.len());
        before
    }

    /// The same for a program that draws: waits until these letters have come, whatever moves of the cursor are between them, and forgets
    /// all that has come.
    pub(crate) fn expect_letters(&mut self, text: &str) {
        let letters = |text: &str| -> String {
            let plain = console::strip_ansi_codes(text);
            plain.split_whitespace().collect()
        };
        let wanted = letters(text);
        self.look(text, |shown| letters(shown).find(&wanted));
        self.shown.clear();
    }

    /// Waits until what is shown has it.
    fn look(&mut self, text: &str, find: impl Fn(&str) -> Option<usize>) -> usize {
        let begun = Instant::now();
        loop {
            if let Some(at) = find(&self.shown) {
                return at;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.show(&bytes),
                Err(error) => panic!(
                    "{text:?} does not come ({error}); there is {:?}",
                    self.shown
                ),
            }
        }
    }

    fn show(&mut self, bytes: &[u8]) {
        self.begun.extend(bytes);
        let whole = match std::str::from_utf8(&self.begun) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.begun.len(),
        };
        let letters: Vec<u8> = self.begun.drain(..whole).collect();
        self.shown.push_str(&String::from_utf8_lossy(&letters));
    }

    /// Keys are shown, and handed on by the line: what a program that draws has to give back.
    pub(crate) fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.keys).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// The exit status, once the program has ended.
    pub(crate) fn status(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Terminal {
    /// A test that fails leaves nothing running.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
