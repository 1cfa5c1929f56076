//! The bytes of a file of settings, as a journal keeps them: text as text, anything else in hexadecimal.

use std::fmt;

use serde::{Deserialize, Serialize, de::Error};
use sha2::{Digest as _, Sha256};

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content(Vec<u8>);

/// SHA-256 of a file's bytes, as `sha256sum` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentHash(String);

impl Content {
    /// These bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text; what is no UTF-8 is replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// What tells it from other contents.
    pub fn hash(&self) -> ContentHash {
        ContentHash(hexadecimal(&Sha256::digest(&self.0)))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Beginning of the SHA-256 of `bytes`, 16 digits: enough to notice a torn line.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes)[..8])
}

fn hexadecimal(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Written {
    Text(String),
    Hex(String),
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Written::Text(text.to_owned()),
            Err(_) => Written::Hex(hexadecimal(&self.0)),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Ok(Self(text.into_bytes())),
            Written::Hex(digits) => bytes_of(&digits)
                .map(Self)
                .ok_or_else(|| D::Error::custom("not hexadecimal")),
        }
    }
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_come_back_from_json(bytes: Vec<u8>) {
            let content = Content::new(bytes);
            let json = serde_json::to_string(&content).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Content>(&json).expect("content"), content);
        }
    }

    #[test]
    fn the_hash_is_what_sha256sum_prints() {
        assert_eq!(
            Content::new("abc").hash().to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
