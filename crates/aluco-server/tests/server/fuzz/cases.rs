//! Whole requests, as bytes on a connection.

use std::time::Duration;

use fastrand::Rng;

use super::bodies;

/// What a hostile client does.
pub(super) struct Case {
    /// What it sends, and how long it waits after each piece.
    pub(super) pieces: Vec<(Vec<u8>, Duration)>,
    /// It closes its sending side then.
    pub(super) closes: bool,
    /// It reads that many bytes and hangs up.
    pub(super) reads_max: usize,
    /// It has sent a request that deserves an answer.
    pub(super) deserves_answer: bool,
    /// Replies to `HEAD` have no body.
    pub(super) has_bodies: bool,
}

const METHODS: [&str; 14] = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "HEAD",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "G\u{c9}T",
    "",
    "AVERYLONGMETHODTHATNOBODYKNOWS",
];

const PATHS: [&str; 32] = [
    "/v1/models/../../../../etc/passwd",
    "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/v1/models//etc/passwd",
    "/v1/models/%00",
    "/v1/models/%ff%fe",
    "/v1/models/%",
    "/v1/models/%zz",
    "/v1/models/",
    "/v1/models/a:b:c/d@e?f#g",
    "/v1/models/%F0%9F%A6%89",
    "/v1/models//dev/zero",
    "/v1/models//proc/self/mem",
    "/v1/models/.",
    "/aluco/v1/streams/../status",
    "/aluco/v1/streams/%2e%2e%2fstatus",
    "/aluco/v1/streams/",
    "/aluco/v1/streams/x/y",
    "/aluco/v1/streams/00000000-0000-0000-0000-000000000000?after=-1",
    "/aluco/v1/streams/%7B00000000000000000000000000000000%7D",
    "/aluco/v1/streams/0?after=99999999999999999999999",
    "/aluco/v1/shutdown/",
    "//",
    "*",
    "",
    "http://evil.example/v1/models",
    "http://[::1/",
    "/v1/\u{fc}ber",
    "/?%00",
    "/health?x=\u{1f989}",
    "/v1/chat/completions/",
    "/V1/CHAT/COMPLETIONS",
    "/v1/chat/completions?model=x&model=y",
];

const HEADERS: [&str; 33] = [
    "Content-Type: text/plain",
    "Content-Type: application/x-www-form-urlencoded",
    "Content-Type: multipart/form-data; boundary=",
    "Content-Type: application/json; charset=utf-7",
    "Content-Encoding: gzip",
    "Accept: application/xml",
    "Accept: text/event-stream",
    "Accept-Encoding: \u{0}",
    "Authorization: Bearer",
    "Authorization: Basic eDp5",
    "Authorization: \u{ff}",
    "X-API-Key: \t",
    "X-Request-Id: a b\tc",
    "X-Request-Id: ../../x",
    "Last-Event-ID: -1",
    "Last-Event-ID: 99999999999999999999999999",
    "X-Aluco-Resumable: perhaps",
    "X-Aluco-Resumable: true",
    "Origin: null",
    "Origin: http://evil.example",
    "Origin: http://localhost",
    "Host: evil.example",
    "Host: localhost:99999999",
    "Host:",
    "Expect: 100-continue",
    "Expect: nonsense",
    "Upgrade: h2c",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity",
    "Content-Length: -1",
    "Content-Length: 5, 6",
    "Bad Header: x",
];

/// One of very many.
pub(super) fn case(rng: &mut Rng, model: &str) -> Case {
    match rng.u32(0..100) {
        0..50 => whole(rng, model, |_, _| {}),
        50..65 => whole(rng, model, |rng, request| {
            for _ in 0..rng.u32(1..4) {
                let header = HEADERS[rng.usize(..HEADERS.len())];
                request.headers.push(header.to_owned());
            }
            request.is_sound = false;
        }),
        65..73 => whole(rng, model, |rng, request| {
            let method = METHODS[rng.usize(..METHODS.len())];
            // That would end the server, which is not what is tested.
            if !(method == "POST" && request.path.ends_with("shutdown")) {
                method.clone_into(&mut request.method);
            }
            request.is_sound = false;
        }),
        73..81 => whole(rng, model, |rng, request| {
            request.path = match rng.u32(0..8) {
                0 => format!("/{}", "a".repeat(rng.usize(1..100_000))),
                1 => format!("/v1/models/{}", "%41".repeat(rng.usize(1..5_000))),
                _ => PATHS[rng.usize(..PATHS.len())].to_owned(),
            };
            request.is_sound = false;
        }),
        81..84 => whole(rng, model, |rng, request| {
            match rng.u32(0..3) {
                0 => {
                    let long = "x".repeat(rng.usize(10_000..500_000));
                    request.headers.push(format!("X-Long: {long}"));
                }
                1 => {
                    let many = (0..rng.u32(90..300)).map(|number| format!("X-{number}: y"));
                    request.headers.extend(many);
                }
                _ => {
                    let versions = ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTP/1.1"];
                    request.version = versions[rng.usize(..4)];
                }
            }
            request.is_sound = false;
        }),
        84..89 => chunked(rng, model),
        89..91 => shortened(rng, model),
        91..95 => pipelined(rng, model),
        95..98 => hasty(rng, model),
        98 => garbage(rng),
        _ if rng.u32(0..4) == 0 => slow(rng, model),
        _ => garbage(rng),
    }
}

struct Request {
    method: String,
    path: String,
    version: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    has_length: bool,
    /// HTTP as it should be, whatever the body is.
    is_sound: bool,
}

impl Request {
    fn new(rng: &mut Rng, model: &str) -> Self {
        let (method, path, body) = bodies::valid(rng, model);
        Self {
            method: method.to_owned(),
            path,
            version: "HTTP/1.1",
            headers: vec!["Host: localhost".to_owned()],
            body: body.map_or_else(Vec::new, |body| bodies::spoil(rng, body)),
            has_length: true,
            is_sound: true,
        }
    }

    fn head(&self) -> Vec<u8> {
        let mut lines = vec![format!("{} {} {}", self.method, self.path, self.version)];
        lines.extend(self.headers.iter().cloned());
        if self.has_length {
            lines.push(format!("Content-Length: {}", self.body.len()));
        }
        lines.extend([String::new(), String::new()]);
        lines.join("\r\n").into_bytes()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.extend(&self.body);
        bytes
    }

    fn case(self) -> Case {
        Case {
            has_bodies: self.method != "HEAD",
            ..sent(self.bytes(), self.is_sound)
        }
    }
}

fn sent(bytes: Vec<u8>, deserves_answer: bool) -> Case {
    Case {
        pieces: vec![(bytes, Duration::ZERO)],
        closes: false,
        reads_max: usize::MAX,
        deserves_answer,
        has_bodies: true,
    }
}

fn whole(rng: &mut Rng, model: &str, change: impl FnOnce(&mut Rng, &mut Request)) -> Case {
    let mut request = Request::new(rng, model);
    request.headers.push("Connection: close".to_owned());
    change(rng, &mut request);
    request.case()
}

/// In chunks, which may be broken.
fn chunked(rng: &mut Rng, model: &str) -> Case {
    let mut request = Request::new(rng, model);
    request.has_length = rng.u32(0..6) == 0;
    request.headers.push("Connection: close".to_owned());
    request
        .headers
        .push("Transfer-Encoding: chunked".to_owned());
    let mut bytes = request.head();
    let mut is_sound = !request.has_length;
    for chunk in request.body.chunks(rng.usize(1..400)) {
        let size = match rng.u32(0..60) {
            0 => "ffffffffffffffff".to_owned(),
            1 => "-1".to_owned(),
            2 => "xyz".to_owned(),
            3 => String::new(),
            4 => format!("{:x};{}", chunk.len(), "e".repeat(rng.usize(1..20_000))),
            5 => format!("{:x}", chunk.len() + 1),
            _ => format!("{:x}", chunk.len()),
        };
        is_sound &= size == format!("{:x}", chunk.len());
        bytes.extend(size.as_bytes());
        bytes.extend(b"\r\n");
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    if rng.u32(0..8) == 0 {
        is_sound = false;
    } else {
        bytes.extend(b"0\r\n\r\n");
    }
    Case {
        closes: !is_sound,
        ..sent(bytes, is_sound)
    }
}

/// Less than was announced, and then the end, or nothing more.
fn shortened(rng: &mut Rng, model: &str) -> Case {
    let request = Request::new(rng, model);
    let mut bytes = request.bytes();
    bytes.truncate(rng.usize(..=bytes.len()));
    Case {
        closes: rng.u32(0..4) > 0,
        ..sent(bytes, false)
    }
}

/// Several at once. A body's length may be wrong, so that the next begins in it.
fn pipelined(rng: &mut Rng, model: &str) -> Case {
    let mut bytes = Vec::new();
    let mut has_bodies = true;
    for _ in 0..rng.u32(2..6) {
        let mut request = Request::new(rng, model);
        if rng.u32(0..10) == 0 {
            "HEAD".clone_into(&mut request.method);
            has_bodies = false;
        }
        if rng.u32(0..5) == 0 {
            let length = rng.usize(..2 * request.body.len() + 2);
            request.has_length = false;
            request.headers.push(format!("Content-Length: {length}"));
        }
        bytes.extend(request.bytes());
    }
    Case {
        closes: true,
        has_bodies,
        ..sent(bytes, false)
    }
}

/// Gone before the answer, or in the middle of it.
fn hasty(rng: &mut Rng, model: &str) -> Case {
    Case {
        reads_max: if rng.bool() { 0 } else { rng.usize(1..2_000) },
        ..sent(Request::new(rng, model).bytes(), false)
    }
}

fn garbage(rng: &mut Rng) -> Case {
    let bytes = match rng.u32(0..4) {
        0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        2 => "\r\n".repeat(rng.usize(1..2_000)).into_bytes(),
        _ => (0..rng.usize(1..3_000)).map(|_| rng.u8(..)).collect(),
    };
    Case {
        closes: true,
        ..sent(bytes, false)
    }
}

/// A few bytes at a time, for longer than anybody should have to wait.
fn slow(rng: &mut Rng, model: &str) -> Case {
    let bytes = Request::new(rng, model).bytes();
    let pieces = bytes.chunks(bytes.len().div_ceil(30));
    let pause = Duration::from_millis(40);
    Case {
        pieces: pieces.map(|piece| (piece.to_vec(), pause)).collect(),
        ..sent(Vec::new(), false)
    }
}
