//! Resource limits: of the process that looked, and as they are configured.

use serde::{Deserialize, Serialize};

use super::Known;

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
