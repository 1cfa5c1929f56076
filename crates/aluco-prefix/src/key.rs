//! What names an entry.

use std::{fmt, str::FromStr};

use aluco_proto::Token;

/// Everything but the tokens on which the bytes of a state depend: the model's contents, the shape of its memory, the engine's build.
/// States with different fingerprints never meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of these named facts, in this order.
    pub fn of<'a>(facts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("aluco prefix store fingerprint 1");
        for (name, value) in facts {
            for text in [name, value] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// As it stands in a file.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// As it stands in a file.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Names an entry: a hash of its fingerprint, its namespace and all tokens up to its end. Two entries with one name are the same but for
/// a collision of BLAKE3; readers compare tokens all the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// As many tokens as the store's blocks have; others hang below it.
    Block,
    /// From the end of its parent to any later position, at most a block; nothing hangs below it. Where state cannot be cut
    /// (windows, recurrence) it is a checkpoint: the only place from which a sequence can go on.
    Tail,
}

impl Key {
    /// The root that the first blocks hang below. Each namespace has its own, so that nobody meets another's prompts.
    pub fn root(fingerprint: &Fingerprint, namespace: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("aluco prefix store root 1");
        hasher.update(fingerprint.as_bytes());
        hasher.update(namespace.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The entry below this one with these tokens.
    #[must_use]
    pub fn child(&self, kind: Kind, tokens: &[Token]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("aluco prefix store entry 1");
        hasher.update(&self.0);
        hasher.update(match kind {
            Kind::Block => b"B",
            Kind::Tail => b"T",
        });
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// As it stands in a file.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// As it stands in a file.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// All that is known of an entry but its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name: `parent.child(kind, &tokens)`.
    pub key: Key,
    /// What it hangs below: a block, or a root.
    pub parent: Key,
    /// Block or tail.
    pub kind: Kind,
    /// Position of its first token in the sequence.
    pub begin: u32,
    /// Its own tokens; at least one.
    pub tokens: Box<[Token]>,
}

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits")]
pub struct ParseKeyError;

impl FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| ParseKeyError)?;
        Ok(Self(*hash.as_bytes()))
    }
}

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.pad(&blake3::Hash::from_bytes(*bytes).to_hex())
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self:.12})")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self:.12})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_everything_that_they_are_made_from() {
        let fingerprint = Fingerprint::of([("model", "a"), ("kv", "f16")]);
        let root = Key::root(&fingerprint, "");
        let mut keys = vec![
            root,
            Key::root(&fingerprint, "someone"),
            Key::root(&Fingerprint::of([("model", "akv"), ("", "f16")]), ""),
            root.child(Kind::Block, &[1, 2]),
            root.child(Kind::Tail, &[1, 2]),
            root.child(Kind::Block, &[2, 1]),
            root.child(Kind::Block, &[1]).child(Kind::Block, &[2]),
        ];
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn a_key_is_read_back_from_its_text() {
        let key = Key::root(&Fingerprint::of([]), "x");
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string().len(), 64);
        assert_eq!("12".parse::<Key>(), Err(ParseKeyError));
    }
}
