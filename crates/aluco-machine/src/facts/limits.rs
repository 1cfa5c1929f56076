//! Resource limits: of the process that looked, and as they are configured.

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::Root;

/// Resource limits. `u64::MAX` is "unlimited".
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes that this process may lock in memory.
    pub memlock_soft_bytes: Known<u64>,
    /// Bytes that it may raise the limit to.
    pub memlock_hard_bytes: Known<u64>,
    /// Files that this process may have open.
    pub files_soft: Known<u64>,
    /// Files that it may raise the limit to.
    pub files_hard: Known<u64>,
    /// Lines of `/etc/security/limits.conf` and `limits.d` about these two.
    pub configured: Known<Vec<LimitLine>>,
}

/// A line of `limits.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitLine {
    /// Whom it is about: a user, `@group` or `*`.
    pub domain: String,
    /// `soft`, `hard` or `-` for both.
    pub kind: String,
    /// `memlock` or `nofile`.
    pub item: String,
    /// As written.
    pub value: String,
    /// The file that says so.
    pub file: String,
}

const LIMITS: &str = "/proc/self/limits";

/// Where limits are configured for those who log in.
pub(crate) const FILE: &str = "/etc/security/limits.conf";
pub(crate) const FOLDER: &str = "/etc/security/limits.d";

impl Limits {
    pub(super) fn collect(root: &Root) -> Self {
        let text = root.text(LIMITS);
        let limit = |name: &str, column: usize| {
            read::told(&text, LIMITS, name, |text| limit(text, name, column))
        };
        let mut paths = vec![FILE.to_owned()];
        let names = read::with_ending(root, FOLDER, ".conf");
        paths.extend(names.iter().map(|name| format!("{FOLDER}/{name}")));
        let mut lines = Vec::new();
        let mut refused = None;
        for path in paths.iter().take(64) {
            match root.text(path) {
                Ok(text) => lines.extend(text.lines().filter_map(|line| limit_line(line, path))),
                Err(error) if error.because == Because::Absent => {}
                Err(error) => refused = Some(error),
            }
        }
        lines.truncate(256);
        Self {
            memlock_soft_bytes: limit("Max locked memory", 0),
            memlock_hard_bytes: limit("Max locked memory", 1),
            files_soft: limit("Max open files", 0),
            files_hard: limit("Max open files", 1),
            configured: match refused {
                Some(error) if lines.is_empty() => error.into(),
                _ => Known::value(lines, "/etc/security"),
            },
        }
    }
}

/// `Max open files            1024                 524288               files`.
fn limit(text: &str, name: &str, column: usize) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    match rest.split_ascii_whitespace().nth(column)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn limit_line(line: &str, file: &str) -> Option<LimitLine> {
    let line = line.split('#').next()?;
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    let line = LimitLine {
        domain: words.next()?,
        kind: words.next()?,
        item: words.next()?,
        value: words.next()?,
        file: file.to_owned(),
    };
    let told = matches!(&*line.item, "memlock" | "nofile");
    (told && matches!(&*line.kind, "soft" | "hard" | "-")).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_may_be_none_at_all() {
        let text = "Max open files            1024       524288    files\nMax locked memory         unlimited  8388608   bytes\n";
        assert_eq!(limit(text, "Max open files", 0), Some(1024));
        assert_eq!(limit(text, "Max locked memory", 0), Some(u64::MAX));
        assert_eq!(limit("Max locked memory\n", "Max locked memory", 0), None);
    }

    #[test]
    fn lines_about_other_limits_are_left_out() {
        let told = |line| limit_line(line, "/f").map(|line| line.value);
        assert_eq!(
            told("* soft memlock unlimited # npu").as_deref(),
            Some("unlimited")
        );
        assert_eq!(told("@video - nofile 9").as_deref(), Some("9"));
        for line in ["* soft core 0", "# * soft memlock 1", "* memlock 1", ""] {
            assert_eq!(told(line), None, "{line}");
        }
    }
}
