//! The keys and values of a header.

use std::collections::{BTreeMap, btree_map};

use super::{Array, Value};

/// Keys and values in the order of the keys. The getters answer `None` for a missing key and for one of another type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// A whole number that is not negative, of any width.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A number.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// A text.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// An array.
    pub fn array(&self, key: &str) -> Option<&Array> {
        self.get(key)?.as_array()
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without any key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a key in, or gives it back if it is there already.
    pub(super) fn insert_new(&mut self, key: String, value: Value) -> Result<(), String> {
        match self.entries.entry(key) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(value);
                Ok(())
            }
            btree_map::Entry::Occupied(occupied) => Err(occupied.key().clone()),
        }
    }
}
