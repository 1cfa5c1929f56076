//! What was read, so that it can be written into a bundle.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::{Node, Space};
use crate::facts::Because;

/// What was seen at each path.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    seen: Mutex<BTreeMap<String, Seen>>,
    spaces: Mutex<BTreeMap<String, Space>>,
}

/// What was seen at one path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) names: Option<Vec<String>>,
    pub(crate) node: Option<Node>,
    pub(crate) link: Option<String>,
    pub(crate) error: Option<Because>,
}

impl Recording {
    pub(super) fn note(&self, path: &str, note: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        note(seen.entry(path.to_owned()).or_default());
    }

    pub(super) fn space(&self, path: &str, space: Space) {
        let mut spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        spaces.insert(path.to_owned(), space);
    }

    /// Everything so far.
    pub(crate) fn seen(&self) -> BTreeMap<String, Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    /// Room in file systems that was asked for so far.
    pub(crate) fn spaces(&self) -> BTreeMap<String, Space> {
        let spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        spaces.clone()
    }
}
