//! The conversation, at a pretended terminal.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use aluco_fake_worker::Script;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    home::{Home, endless},
    terminal::Terminal,
};

/// `aluco run` at a terminal.
fn open(home: &Home, args: &[&str]) -> Terminal {
    Terminal::of(&mut home.run(args))
}

/// Waits until the prompt is there.
fn prompt(terminal: &mut Terminal) {
    terminal.expect(">>> ");
}

#[test]
fn a_conversation_is_held_kept_and_gone_on_with() {
    let home = Home::with(&Script {
        echo: true,
        ..Script::default()
    });
    let mut terminal = open(&home, &[]);
    terminal.expect("/help shows what you can do");
    prompt(&mut terminal);
    terminal.press("hello owl\r");
    terminal.expect("hello owl\r\n");
    terminal.expect(" generated");
    prompt(&mut terminal);
    terminal.press("\"\"\"\rtwo\rlines\r\"\"\"\r");
    terminal.expect("two\r\nlines\r\n");
    prompt(&mut terminal);
    terminal.press("/set seed owl\r");
    terminal.expect("cannot set seed: \"owl\" is not a whole number");
    prompt(&mut terminal);
    terminal.press("/set max_tokens 1\r");
    prompt(&mut terminal);
    terminal.press("/system Be brief.\r");
    prompt(&mut terminal);
    terminal.press("one two\r");
    terminal.expect("cut off at the limit of tokens");
    prompt(&mut terminal);
    terminal.press("/show\r");
    let shown = terminal.expect("max_tokens     1");
    assert!(shown.contains("messages       6"), "{shown}");
    assert!(shown.contains("instructions   Be brief."), "{shown}");
    prompt(&mut terminal);
    terminal.press("/save talk.json\r");
    terminal.expect("saved to talk.json");
    prompt(&mut terminal);
    terminal.press("/clear\r");
    terminal.expect("forgotten");
    prompt(&mut terminal);
    terminal.press("/retry\r");
    terminal.expect("nothing was said yet");
    prompt(&mut terminal);
    terminal.press("/load talk.json\r");
    terminal.expect("6 messages");
    prompt(&mut terminal);
    terminal.press("/hoot\r");
    terminal.expect("there is no /hoot");
    prompt(&mut terminal);
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
    let mut terminal = open(&home, &["--no-stats"]);
    prompt(&mut terminal);
    terminal.press("hello\r");
    terminal.expect("on on on ");
    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    terminal.expect("(stopped)");
    prompt(&mut terminal);
    terminal.press("/show\r");
    terminal.expect("messages       2");
    prompt(&mut terminal);
    terminal.press("/retry\r");
    terminal.expect("on on on ");
    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    terminal.expect("(stopped)");
    prompt(&mut terminal);
    terminal.press("/show\r");
    terminal.expect("messages       2");
    prompt(&mut terminal);
    // At the prompt, Ctrl-C takes back what is typed, and leaves only if it comes twice.
    terminal.press("/bye no\x03");
    terminal.expect("/bye or Ctrl-D leaves");
    prompt(&mut terminal);
    terminal.press("\x03");
    terminal.expect("Ctrl-C again, ");
    prompt(&mut terminal);
    terminal.press("/show\r");
    terminal.expect("messages       2");
    prompt(&mut terminal);
    terminal.press("\x03");
    terminal.expect("Ctrl-C again, ");
    prompt(&mut terminal);
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
    let mut terminal = Terminal::of(&mut command);
    prompt(&mut terminal);
    terminal.press("\"\"\"one\n");
    terminal.expect("... ");
    terminal.press("two\"\"\"\n");
    terminal.expect("one\r\ntwo\r\n");
    prompt(&mut terminal);
    // A terminal without an editor sends Ctrl-C as a signal.
    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    terminal.expect("Ctrl-C again, ");
    prompt(&mut terminal);
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
    let mut terminal = open(&home, &[]);
    prompt(&mut terminal);
    terminal.press("hello\r");
    terminal.expect("this request has ended 2 workers at the same place");
    terminal.expect("/retry asks again");
    prompt(&mut terminal);
    Script::default().write(&home.model()).unwrap();
    // The very same would be refused for a while, whatever has become of the model.
    terminal.press("/retry\r");
    terminal.expect("this very request has ended workers before");
    prompt(&mut terminal);
    terminal.press("/set seed 1\r");
    prompt(&mut terminal);
    terminal.press("/retry\r");
    terminal.expect("Hello, world!\r\n");
    prompt(&mut terminal);
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
    let mut terminal = open(&home, &["hello"]);
    terminal.expect("a\u{fffd}]0;owned\u{fffd}b\tc\u{fffd}\r\n");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn a_model_that_is_not_here_is_told_before_anything_is_typed() {
    let home = Home::with(&Script::default());
    fs::remove_file(home.model()).unwrap();
    let mut terminal = open(&home, &[]);
    terminal.expect("there is no file");
    assert_eq!(terminal.status(), Some(1));
}
