//! The conversation, at a pretended terminal.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use aluco_fake_worker::Script;
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::home::{Home, PATIENCE, endless};

/// A terminal with `aluco run` in it.
struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// What was shown since the last expectation was met.
    shown: String,
}

impl Terminal {
    fn open(home: &Home, args: &[&str]) -> Self {
        Self::of(home.run(args))
    }

    fn of(mut command: Command) -> Self {
        Self::begin(&mut command, None)
    }

    /// Standard output is not the terminal.
    fn with_output(command: &mut Command, output: Stdio) -> Self {
        Self::begin(command, Some(output))
    }

    fn begin(command: &mut Command, output: Option<Stdio>) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let side = || {
            Stdio::from(
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(name.to_str().unwrap())
                    .unwrap(),
            )
        };
        let child = command
            .stdin(side())
            .stdout(output.unwrap_or_else(side))
            .stderr(side())
            .spawn()
            .unwrap();
        let keys = File::from(master);
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
            shown: String::new(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, and forgets what was before its end. Gives what stood before it.
    fn expect(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.shown.find(text) {
                let before = self.shown[..at].to_owned();
                self.shown.drain(..at + text.len());
                return before;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!(
                    "{text:?} does not come ({error}); there is {:?}",
                    self.shown
                ),
            }
        }
    }

    /// Waits until the prompt is there. Gives what stood before it.
    fn prompt(&mut self) -> String {
        self.expect(">>> ")
    }

    fn status(mut self) -> Option<i32> {
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

#[test]
fn a_conversation_is_held_kept_and_gone_on_with() {
    let home = Home::with(&Script {
        echo: true,
        ..Script::default()
    });
    let mut terminal = Terminal::open(&home, &[]);
    terminal.expect("/help shows what you can do");
    terminal.prompt();
    terminal.press("hello owl\r");
    terminal.expect("hello owl\r\n");
    terminal.expect(" generated");
    terminal.prompt();
    terminal.press("\"\"\"\rtwo\rlines\r\"\"\"\r");
    terminal.expect("two\r\nlines\r\n");
    terminal.prompt();
    terminal.press("/set seed owl\r");
    terminal.expect("cannot set seed: \"owl\" is not a whole number");
    terminal.prompt();
    terminal.press("/set max_tokens 1\r");
    terminal.prompt();
    terminal.press("/system Be brief.\r");
    terminal.prompt();
    terminal.press("one two\r");
    terminal.expect("cut off at the limit of tokens");
    terminal.prompt();
    terminal.press("/show\r");
    let shown = terminal.expect("max_tokens     1");
    assert!(shown.contains("messages       6"), "{shown}");
    assert!(shown.contains("instructions   Be brief."), "{shown}");
    terminal.prompt();
    terminal.press("/save talk.json\r");
    terminal.expect("saved to talk.json");
    terminal.prompt();
    terminal.press("/clear\r");
    terminal.expect("forgotten");
    terminal.prompt();
    terminal.press("/retry\r");
    terminal.expect("nothing was said yet");
    terminal.prompt();
    terminal.press("/load talk.json\r");
    terminal.expect("6 messages");
    terminal.prompt();
    terminal.press("/hoot\r");
    terminal.expect("there is no /hoot");
    terminal.prompt();
    terminal.press("/bye\r");
    assert_eq!(terminal.status(), Some(0));

    let saved: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path().join("talk.json")).unwrap()).unwrap();
    let contents: Vec<&str> = saved["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(
        contents,
        [
            "Be brief.",
            "hello owl",
            "hello owl",
            "two\nlines",
            "two\nlines",
            "one two",
            "one"
        ]
    );
    let history = home.path().join(".local/state/aluco/history");
    assert_eq!(
        fs::metadata(&history).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let lines = fs::read_to_string(history).unwrap();
    assert!(lines.contains("hello owl\n"), "{lines}");
}

#[test]
fn ctrl_c_stops_an_answer_which_stays_as_far_as_it_came() {
    let home = Home::with(&endless());
    let mut terminal = Terminal::open(&home, &["--no-stats"]);
    terminal.prompt();
    terminal.press("hello\r");
    terminal.expect("on on on ");
    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    terminal.expect("(stopped)");
    terminal.prompt();
    terminal.press("/show\r");
    terminal.expect("messages       2");
    terminal.prompt();
    terminal.press("/retry\r");
    terminal.expect("on on on ");
    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    terminal.expect("(stopped)");
    terminal.prompt();
    terminal.press("/show\r");
    terminal.expect("messages       2");
    terminal.prompt();
    // At the prompt, Ctrl-C takes back what is typed, and leaves only if it comes twice.
    terminal.press("/bye no\x03");
    terminal.expect("/bye or Ctrl-D leaves");
    terminal.prompt();
    terminal.press("\x03");
    terminal.expect("Ctrl-C again, ");
    terminal.prompt();
    terminal.press("/show\r");
    terminal.expect("messages       2");
    terminal.prompt();
    terminal.press("\x03");
    terminal.expect("Ctrl-C again, ");
    terminal.prompt();
    terminal.press("\x03");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn a_terminal_that_moves_no_cursor_can_be_talked_at_and_left() {
    let home = Home::with(&Script {
        echo: true,
        ..Script::default()
    });
    let mut command = home.run(&["--no-stats"]);
    command.env("TERM", "dumb");
    let mut terminal = Terminal::of(command);
    terminal.prompt();
    terminal.press("\"\"\"one\n");
    terminal.expect("... ");
    terminal.press("two\"\"\"\n");
    terminal.expect("one\r\ntwo\r\n");
    terminal.prompt();
    // A terminal without an editor sends Ctrl-C as a signal.
    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    terminal.expect("Ctrl-C again, ");
    terminal.prompt();
    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn a_conversation_is_not_written_to_a_file() {
    let home = Home::with(&Script::default());
    let out = home.path().join("out.txt");
    let mut command = home.run(&[]);
    let mut terminal =
        Terminal::with_output(&mut command, Stdio::from(File::create(&out).unwrap()));
    terminal.expect("standard output is none");
    terminal.expect("ask one question: aluco run model.gguf");
    assert_eq!(terminal.status(), Some(2));
    assert_eq!(fs::read_to_string(out).unwrap(), "");
}

#[test]
fn a_failed_answer_can_be_asked_for_again() {
    let home = Home::with(&Script {
        crash_after: Some(0),
        ..Script::default()
    });
    let mut terminal = Terminal::open(&home, &[]);
    terminal.prompt();
    terminal.press("hello\r");
    terminal.expect("this request has ended 2 workers at the same place");
    terminal.expect("/retry asks again");
    terminal.prompt();
    Script::default().write(&home.model()).unwrap();
    // The very same would be refused for a while, whatever has become of the model.
    terminal.press("/retry\r");
    terminal.expect("this very request has ended workers before");
    terminal.prompt();
    terminal.press("/set seed 1\r");
    terminal.prompt();
    terminal.press("/retry\r");
    terminal.expect("Hello, world!\r\n");
    terminal.prompt();
    // Ctrl-D.
    terminal.press("\x04");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn a_model_cannot_send_commands_to_the_terminal() {
    let home = Home::with(&Script {
        tokens: vec!["a\x1b]0;owned\x07b\tc\r".to_owned()],
        ..Script::default()
    });
    let mut terminal = Terminal::open(&home, &["hello"]);
    terminal.expect("a\u{fffd}]0;owned\u{fffd}b\tc\u{fffd}\r\n");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn a_model_that_is_not_here_is_told_before_anything_is_typed() {
    let home = Home::with(&Script::default());
    fs::remove_file(home.model()).unwrap();
    let mut terminal = Terminal::open(&home, &[]);
    terminal.expect("there is no file");
    assert_eq!(terminal.status(), Some(1));
}
