//! Addresses, identifiers and names, replaced wherever they stand.

use std::{borrow::Cow, collections::BTreeSet, sync::LazyLock};

use regex::{Captures, Regex};

use crate::root::Root;

/// Names of hosts and users that say nothing, and that stand in many other places.
const INNOCENT: &[&str] = &[
    "aluco",
    "arch",
    "archlinux",
    "bazzite",
    "cachyos",
    "daemon",
    "debian",
    "desktop",
    "fedora",
    "framework",
    "laptop",
    "linux",
    "llama",
    "localhost",
    "models",
    "nixos",
    "nobody",
    "ollama",
    "render",
    "root",
    "server",
    "strix",
    "toolbox",
    "toolbx",
    "ubuntu",
    "user",
    "video",
];

macro_rules! patterns {
    ($($name:ident = $text:literal;)+) => {
        $(static $name: LazyLock<Regex> =
            LazyLock::new(|| Regex::new($text).expect("it is a constant that a test uses"));)+
    };
}

patterns! {
    MAC = r"(?i)\b(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b";
    MAC_IN_NAME = r"\b(enx|wlx|wwx)[0-9a-f]{12}\b";
    UUID = r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b";
    LONG_ID = r"(?i)\b[0-9a-f]{32,}\b";
    HOME = r#"(/home/|/Users/)[^/\s:"',;]+"#;
    MAIL = r"[\w.+-]+@[\w-]+\.[\w.-]+";
    IPV4 = r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b";
    IPV6 = r"(?i)\b[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*::(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*)?|\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b";
    URL_HOST = r#"://(?:\[[^\]\s]*\]|[^/\s"':\[]+)"#;
}

/// Replaces what would tell whose machine this is.
pub(super) struct Scrub {
    /// The names of this host and of its users; `None` if there are none to be hidden.
    names: Option<Regex>,
}

impl Scrub {
    /// Learns the names that this machine must not tell.
    pub(super) fn of(root: &Root) -> Self {
        let mut names = BTreeSet::new();
        for path in ["/proc/sys/kernel/hostname", "/etc/hostname"] {
            if let Ok(text) = root.text(path) {
                let host = text.trim();
                names.insert(host.to_owned());
                names.extend(host.split('.').next().map(str::to_owned));
            }
        }
        if let Ok(text) = root.text_up_to("/etc/passwd", 1 << 20) {
            names.extend(text.lines().filter_map(person).map(str::to_owned));
        }
        for word in root.words("/proc/self/environ").unwrap_or_default() {
            let known = ["USER=", "LOGNAME=", "SUDO_USER=", "HOSTNAME="];
            let name = known.iter().find_map(|begin| word.strip_prefix(begin));
            names.extend(name.map(str::to_owned));
        }
        names.retain(|name| name.len() >= 3 && !INNOCENT.contains(&&*name.to_ascii_lowercase()));
        let names: Vec<String> = names.iter().map(|name| regex::escape(name)).collect();
        let names = (!names.is_empty())
            .then(|| Regex::new(&format!(r"(?i)\b(?:{})\b", names.join("|"))).ok())
            .flatten();
        Self { names }
    }

    /// Text of the kernel or of a program. Versions with four numbers look like addresses, so those stay.
    pub(super) fn plain(&self, text: &str) -> String {
        let text = MAC.replace_all(text, "00:00:00:00:00:00");
        let text = MAC_IN_NAME.replace_all(&text, "${1}000000000000");
        let text = UUID.replace_all(&text, "00000000-0000-0000-0000-000000000000");
        let text = LONG_ID.replace_all(&text, |id: &Captures<'_>| "0".repeat(id[0].len()));
        let text = HOME.replace_all(&text, "${1}user");
        let text = MAIL.replace_all(&text, "user@host");
        match &self.names {
            Some(names) => names.replace_all(&text, "hidden").into_owned(),
            None => text.into_owned(),
        }
    }

    /// Text that people write.
    pub(super) fn free(&self, text: &str) -> String {
        let text = self.plain(text);
        let text = IPV4.replace_all(&text, |address: &Captures<'_>| {
            let address = &address[0];
            let local = address.starts_with("127.") || address == "0.0.0.0";
            if local {
                address.to_owned()
            } else {
                "192.0.2.1".to_owned()
            }
        });
        let text = IPV6.replace_all(&text, "2001:db8::1");
        let text: Cow<'_, str> = URL_HOST.replace_all(&text, |host: &Captures<'_>| {
            let name = host[0].trim_start_matches("://");
            let local =
                matches!(name, "localhost" | "0.0.0.0" | "192.0.2.1") || name.starts_with("127.");
            if local {
                host[0].to_owned()
            } else {
                "://host".to_owned()
            }
        });
        text.into_owned()
    }

    /// A path. Those of firmware variables hold a constant that looks like an identifier.
    pub(super) fn path(&self, path: &str) -> String {
        if path.starts_with("/sys/firmware/efi/efivars/") {
            return path.to_owned();
        }
        self.plain(path)
    }
}

/// The name in a line of `/etc/passwd`, if it is that of a person.
fn person(line: &str) -> Option<&str> {
    let mut parts = line.split(':');
    let name = parts.next()?;
    let id: u32 = parts.nth(1)?.parse().ok()?;
    (1000..60_000).contains(&id).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::{Bundle, Entry};

    fn scrub() -> Scrub {
        let files = [
            ("/proc/sys/kernel/hostname", "snowy.example.org\n"),
            (
                "/etc/passwd",
                "root:x:0:0::/root:/bin/sh\nwilma:x:1000:1000::/home/wilma:/bin/sh\n",
            ),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), Entry::Text(text.to_owned())));
        Scrub::of(&Root::bundle(Bundle {
            files: files.into(),
            ..Bundle::default()
        }))
    }

    #[test]
    fn what_tells_an_owner_is_replaced_and_versions_stay() {
        let scrub = scrub();
        for (text, expected) in [
            ("a 52:54:00:12:34:56 b", "a 00:00:00:00:00:00 b"),
            ("enx525400123456", "enx000000000000"),
            ("/home/wilma/m.gguf", "/home/user/m.gguf"),
            ("on SNOWY as wilma", "on hidden as hidden"),
            ("firmware 1.1.2.65", "firmware 1.1.2.65"),
            (
                "d41d8cd98f00b204e9800998ecf8427e",
                "00000000000000000000000000000000",
            ),
            ("0000:c3:00.0", "0000:c3:00.0"),
        ] {
            assert_eq!(scrub.plain(text), expected);
        }
    }

    #[test]
    fn addresses_are_replaced_where_people_write() {
        let scrub = scrub();
        for (text, expected) in [
            ("OLLAMA_HOST=8.8.8.8:11434", "OLLAMA_HOST=192.0.2.1:11434"),
            ("OLLAMA_HOST=127.0.0.1:11434", "OLLAMA_HOST=127.0.0.1:11434"),
            ("x=fe80::1c2d:3e4f", "x=2001:db8::1"),
            ("x=2001:db8:1:2:3:4:5:6", "x=2001:db8::1"),
            ("http://box.example.org/v1", "http://host/v1"),
            ("http://[fe80::1]:80/v1", "http://host:80/v1"),
            ("http://localhost:1/", "http://localhost:1/"),
        ] {
            assert_eq!(scrub.free(text), expected);
        }
    }
}
