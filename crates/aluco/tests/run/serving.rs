//! `aluco serve` under adverse conditions.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use aluco_fake_worker::Script;
use assert_cmd::assert::OutputAssertExt;

use crate::home::{Home, PATIENCE, own_address};

/// Ends the server when a test ends, however that does.
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_log_that_cannot_be_written_costs_no_answer() {
    let home = Home::with(&Script::default());
    // With its log lost, the server cannot tell which port it took.
    let host = own_address().to_string();
    let free = TcpListener::bind((&*host, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let port = address.port().to_string();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let _server = Guard(
        home.aluco(&["serve", "--host", &host, "--port", &port])
            .args(["--log-level", "trace"])
            .stdin(Stdio::null())
            .stderr(full)
            .spawn()
            .unwrap(),
    );
    let address = address.to_string();
    let begun = Instant::now();
    let answer = loop {
        match get(&address, "/health") {
            Ok(answer) => break answer,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    let answer = get(&address, "/nowhere").unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
}

#[test]
fn an_address_that_another_programs_variable_gave_is_told_with_that_variable() {
    let home = Home::with(&Script::default());
    let serve = |host: &str| {
        let mut command = home.aluco(&["serve"]);
        command.env_remove("ALUCO_PORT").env("OLLAMA_HOST", host);
        let assert = command.assert();
        let failed = assert.code(1).stdout("");
        String::from_utf8_lossy(&failed.get_output().stderr).into_owned()
    };
    let said = serve("0.0.0.0:0");
    let origin = "(the address is from env OLLAMA_HOST)";
    assert!(said.contains(origin), "{said}");
    assert!(said.contains("set a key"), "{said}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = serve(&address);
    let expected = format!("cannot listen at {address} (from env OLLAMA_HOST): ");
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn prompt_rules_that_cannot_work_are_told_before_anything_starts() {
    let home = Home::with(&Script::default());
    let rules = "[[rule]]\nname = \"owl\"\npattern = \"(\"\nreplace = \"\"\n";
    std::fs::write(home.path().join("rules.toml"), rules).unwrap();
    let assert = home
        .aluco(&["serve", "--port", "0", "--prompt-rules", "rules.toml"])
        .assert();
    let failed = assert.code(1).stdout("");
    let said = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
    let expected = "error: rules.toml: rule \"owl\": `pattern`: regex parse error";
    assert!(said.starts_with(expected), "{said}");
}
