//! What somebody new does wrong: each message says what happened, to what, and what to do next.

use std::fs;

use aluco_fake_worker::Script;

use crate::{home::Home, top::Serving};

/// Runs a command that has to fail; gives its exit status and what it said.
fn said(home: &Home, line: &str) -> (Option<i32>, String) {
    let args: Vec<&str> = line.split(' ').collect();
    let output = home.aluco(&args).output().unwrap();
    assert!(output.stdout.is_empty(), "{line}: {output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: "), "{line}: {said}");
    (output.status.code(), said)
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let home = Home::with(&Script::default());
    for (name, text) in [
        ("unknown.toml", "prot = 1"),
        ("type.toml", "port = \"x\""),
        ("broken.toml", "port ="),
    ] {
        fs::write(home.path().join(name), text).unwrap();
    }
    fs::write(home.path().join("binary.toml"), b"\xff\xfe").unwrap();
    fs::create_dir(home.path().join("folder")).unwrap();
    for (line, status, parts) in [
        ("run owl hi", 1, &["owl", "aluco pull owl"][..]),
        ("run ./owl.gguf hi", 1, &["owl.gguf", "check the path"]),
        ("run ./folder hi", 1, &["folder", "name a .gguf file in it"]),
        (
            "run ./model.gguf hi --worker /no/worker",
            1,
            &["/no/worker", "aluco version", "--worker"],
        ),
        (
            "run ./model.gguf hi --context 99999999999",
            2,
            &["--context", "4294967295"],
        ),
        ("rm owl", 1, &["owl", "nothing to delete", "aluco list"]),
        ("ps", 1, &["127.0.0.1:1", "aluco serve"]),
        (
            "--config nowhere.toml list",
            1,
            &["nowhere.toml", "no such file", "--config"],
        ),
        ("--config binary.toml list", 1, &["binary.toml", "not text"]),
        (
            "--config unknown.toml list",
            1,
            &["unknown.toml:1", "`prot`", "`port`"],
        ),
        (
            "--config type.toml list",
            1,
            &["type.toml:1", "0 to 65535", "\"x\""],
        ),
        (
            "--config broken.toml list",
            1,
            &["broken.toml:1", "key = value"],
        ),
        (
            "serve --host 0.0.0.0",
            1,
            &["0.0.0.0:1 ", "ALUCO_API_KEY", "--host"],
        ),
        (
            "serve --keep-alive soon",
            2,
            &["--keep-alive", "\"5m\"", "\"soon\""],
        ),
        (
            "serve --log-level loud",
            2,
            &["--log-level", "warn", "\"loud\""],
        ),
        (
            "serve --backend cuda",
            2,
            &["--backend", "\"vulkan\"", "\"cuda\""],
        ),
        (
            "ps --url localhost:1",
            2,
            &["--url", "http://127.0.0.1:13313"],
        ),
        ("servee", 2, &["servee", "'serve'"]),
    ] {
        let (found, said) = said(&home, line);
        assert_eq!(found, Some(status), "{line}: {said}");
        for part in parts {
            assert!(said.contains(part), "{line}: no {part:?} in {said}");
        }
    }
}

#[test]
fn mistakes_at_a_server_are_told_with_what_to_do() {
    let serving = Serving::start(&Script::default());
    let home = &serving.home;
    let address = serving.url.strip_prefix("http://").unwrap().to_owned();
    let port = address.rsplit(':').next().unwrap();
    fs::write(home.path().join("bad.gguf"), "no model at all").unwrap();
    let user_file = home.path().join(".config/aluco/config.toml");
    fs::create_dir_all(user_file.parent().unwrap()).unwrap();
    let url = format!("--url http://{address}");
    for (line, status, parts) in [
        (
            format!("serve --port {port}"),
            1,
            vec![
                address.clone(),
                format!("aluco ps {url}"),
                "--port".to_owned(),
            ],
        ),
        (
            format!("run ./bad.gguf hi {url}"),
            1,
            vec!["bad.gguf".to_owned(), "aluco show".to_owned()],
        ),
        (
            format!("run ./model.gguf hi --max-tokens 0 {url}"),
            2,
            vec!["max_tokens".to_owned(), "at least 1".to_owned()],
        ),
        (
            format!("log loud {url}"),
            2,
            vec!["\"loud\"".to_owned(), "debug".to_owned()],
        ),
        (
            format!("stop owl {url}"),
            1,
            vec!["owl".to_owned(), "aluco ps".to_owned()],
        ),
    ] {
        let (found, said) = said(home, &line);
        assert_eq!(found, Some(status), "{line}: {said}");
        for part in parts {
            assert!(said.contains(&part), "{line}: no {part:?} in {said}");
        }
    }
    fs::write(user_file, "keep_alife = '1m'").unwrap();
    // The command would stumble over the file itself.
    fs::write(home.path().join("empty.toml"), "").unwrap();
    let (found, said) = said(home, &format!("--config empty.toml reload {url}"));
    assert_eq!(found, Some(1));
    for part in ["config.toml:1", "`keep_alife`", "`keep_alive`"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}
