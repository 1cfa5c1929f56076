//! `aluco serve` under a service manager, and what is changed while it runs.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::{Child, Command, Stdio},
};

use aluco_fake_worker::Script;
use assert_cmd::assert::OutputAssertExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::home::{Home, PATIENCE, wait_until_stopped};

/// The service manager's end of the socket.
struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next message.
    fn heard(&self) -> String {
        let mut message = [0; 4096];
        let length = loop {
            match self.0.recv(&mut message) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("the server tells something"),
            }
        };
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// Leaves no room for another message.
    fn overwhelm(&self) {
        let address = self.0.local_addr().unwrap();
        // One sender alone may come to a limit of its own.
        loop {
            let busybody = UnixDatagram::unbound().unwrap();
            busybody.set_nonblocking(true).unwrap();
            let has_said = || busybody.send_to_addr(b"STATUS=busy", &address).is_ok();
            if !has_said() {
                return;
            }
            while has_said() {}
        }
    }

    /// Takes the messages that are there; gives how many they are.
    fn hear_all(&self) -> usize {
        let mut count = 0;
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0; 4096]).is_ok() {
            count += 1;
        }
        self.0.set_nonblocking(false).unwrap();
        count
    }

    /// Waits for a message with that line; gives it.
    fn wait_for(&self, line: &str) -> String {
        loop {
            let message = self.heard();
            if message.lines().any(|it| it == line) {
                return message;
            }
        }
    }
}

/// A server, and the service manager that started it.
struct Service {
    home: Home,
    manager: Manager,
    process: Child,
    url: String,
}

impl Service {
    fn new(configuration: &str) -> Self {
        let home = Home::with(&Script::default());
        let path = home.path().join("notify");
        let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
        let mut service = Self::start(home, manager, configuration, |command| {
            command.env("NOTIFY_SOCKET", &path);
        });
        service.learn_url();
        service
    }

    fn start(
        home: Home,
        manager: Manager,
        configuration: &str,
        adjust: impl FnOnce(&mut Command),
    ) -> Self {
        fs::write(home.path().join("config.toml"), configuration).unwrap();
        let mut command = home.serve();
        command
            .args(["--config", "config.toml"])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        adjust(&mut command);
        let process = command.spawn().unwrap();
        Self {
            home,
            manager,
            process,
            url: String::new(),
        }
    }

    fn learn_url(&mut self) {
        let ready = self.manager.wait_for("READY=1");
        let status = ready.lines().find_map(|line| line.strip_prefix("STATUS="));
        let (_, url) = status.unwrap().split_once("serving at ").unwrap();
        url.clone_into(&mut self.url);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).unwrap();
    }

    fn configure(&self, configuration: &str) {
        fs::write(self.home.path().join("config.toml"), configuration).unwrap();
    }

    /// `aluco` as a client; what it says.
    fn ask(&self, args: &[&str]) -> Result<String, String> {
        let output = self.home.aluco(args).args(["--url", &self.url]).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(said)
        } else {
            Err(said)
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_service_manager_is_told_of_every_state() {
    let home = Home::with(&Script::default());
    // An abstract name, as containers have.
    let name = format!("aluco-test{}", home.path().display());
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let mut service = Service::start(home, manager, "queue_max = 7", |command| {
        command.env("NOTIFY_SOCKET", format!("@{name}"));
        // A third of it is time enough for the server to answer itself on a busy machine.
        command.env("WATCHDOG_USEC", "3000000");
    });
    service.learn_url();
    for _ in 0..3 {
        service.manager.wait_for("WATCHDOG=1");
    }
    service.configure("queue_max = 8");
    service.signal(Signal::HUP);
    let reloading = service.manager.wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    service.manager.wait_for("READY=1");
    service.configure("queue_max = 'many'");
    service.signal(Signal::HUP);
    service.manager.wait_for("RELOADING=1");
    let ready = service.manager.wait_for("READY=1");
    assert!(ready.contains("cannot be reloaded"), "{ready}");
    service.ask(&["ps"]).unwrap();
    service.signal(Signal::TERM);
    service.manager.wait_for("STOPPING=1");
    assert!(service.process.wait().unwrap().success());
}

#[test]
fn a_service_manager_that_is_busy_for_a_moment_misses_no_state() {
    let home = Home::with(&Script::default());
    let path = home.path().join("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    manager.overwhelm();
    let mut service = Service::start(home, manager, "", |command| {
        command.env("NOTIFY_SOCKET", &path);
        command.stderr(Stdio::piped());
    });
    let mut log = BufReader::new(service.process.stderr.take().unwrap()).lines();
    // What it has to say of this machine may come before.
    let is_up = |line: std::io::Result<String>| line.unwrap().contains("serves at");
    assert!(log.any(is_up), "it does not serve");
    service.learn_url();
    service.manager.overwhelm();
    service.signal(Signal::HUP);
    service.manager.wait_for("RELOADING=1");
    service.manager.wait_for("READY=1");
}

#[test]
fn the_watchdog_hears_nothing_from_a_server_that_is_stuck() {
    let home = Home::with(&Script::default());
    let path = home.path().join("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let mut service = Service::start(home, manager, "", |command| {
        command.env("NOTIFY_SOCKET", &path);
        command.env("WATCHDOG_USEC", "300000");
    });
    service.learn_url();
    service.manager.wait_for("WATCHDOG=1");
    service.signal(Signal::STOP);
    wait_until_stopped(service.process.id());
    service.manager.hear_all();
    let twice_the_limit = std::time::Duration::from_millis(600);
    std::thread::sleep(twice_the_limit);
    assert_eq!(service.manager.hear_all(), 0);
    service.signal(Signal::CONT);
    service.manager.wait_for("WATCHDOG=1");
}

#[test]
fn a_socket_that_is_handed_over_is_served() {
    let home = Home::with(&Script::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // A client can connect before the server is there.
    let mut early = TcpStream::connect(address).unwrap();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    early
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    // The process id has to be known in its own environment, so a shell becomes it.
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --port 1";
    let mut process = Command::new("/bin/sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_aluco")])
        .env_clear()
        .env("HOME", home.path())
        .current_dir(home.path())
        .stdin(OwnedFd::from(listener))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    assert!(process.wait().unwrap().success());
}

#[test]
fn a_socket_that_is_no_listener_is_refused() {
    let home = Home::with(&Script::default());
    let script = "exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve";
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_aluco")])
        .env_clear()
        .env("HOME", home.path());
    let failed = command.assert().code(1);
    let said = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
    assert!(said.contains("that was handed over"), "{said}");
}

#[test]
fn a_reload_says_what_holds_now_and_what_does_not() {
    let service = Service::new("api_keys = ['old']\nkeep_alive = '5m'\nlog_level = 'info'");
    service.configure(
        "api_keys = ['new']\nkeep_alive = '10m'\nlog_level = 'warn'\ncontext = 512\nmodels_folder = '/nowhere'",
    );
    let said = service.ask(&["reload", "--api-key", "old"]).unwrap();
    let expected = "\
the configuration was read again
changed: api_keys, keep_alive, log_level
for models that are loaded from now on: context
only after a restart: models_folder
";
    assert_eq!(said, expected);
    let refused = service.ask(&["ps", "--api-key", "old"]).unwrap_err();
    assert!(refused.contains("key"), "{refused}");
    let levels = service.ask(&["log", "--api-key", "new"]).unwrap();
    assert_eq!(levels, "the server logs warn\n");
    service.configure("keep_alife = 1");
    let refused = service.ask(&["reload", "--api-key", "new"]).unwrap_err();
    assert!(
        refused.contains("config.toml:1: unknown key `keep_alife`"),
        "{refused}"
    );
    service.ask(&["ps", "--api-key", "new"]).unwrap();
}

#[test]
fn log_levels_change_while_the_server_runs() {
    let service = Service::new("log_level = 'off'");
    assert_eq!(service.ask(&["log"]).unwrap(), "the server logs off\n");
    let said = service.ask(&["log", "info,aluco::worker=trace"]).unwrap();
    assert_eq!(said, "the server logs info,aluco::worker=trace\n");
    let refused = service.ask(&["log", "loud"]).unwrap_err();
    assert!(refused.contains("expected a level"), "{refused}");
    assert_eq!(service.ask(&["log"]).unwrap(), said);
}
