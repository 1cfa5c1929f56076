//! The prefix store: what was computed for one prompt, kept for the next one that begins like it.
//!
//! The state of a sequence is cut into entries that hang below one another in a tree: whole blocks of a fixed number of tokens, and
//! tails, which go on from the last whole block to any position. An entry is named by a [`Key`], made from the fingerprint of whatever computed
//! it and all tokens up to its end; tokens are compared in full before anything is used. What an entry's payload holds is the
//! engine's business: this crate moves bytes.

pub mod disk;
mod key;
mod store;
mod tree;

pub use key::{Entry, Fingerprint, Key, Kind, ParseKeyError};
pub use store::{DiskOptions, Fetched, Found, FoundPart, Store, StoreOptions, StoreStatus, Tier};
pub use tree::{Common, Cut, Followed, Origin, Part, Path, Payload, Place, Tree};
