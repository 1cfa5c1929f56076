//! Who asks: by its API key, else by its address. Whoever shares the machine fairly, or shares no computed prompts, is told apart by
//! this.

use std::{fmt, net::SocketAddr, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::{Isolation, ServerConfig};

/// Hex digits of a key's hash that name it in logs and for fairness. Twelve tell any keys apart and give none away.
const NAME_DIGITS: usize = 12;

/// Who asks, in the words of [`aluco_fleet::proto::GenerationSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// Whose share of prefill it takes.
    pub(crate) name: Arc<str>,
    /// Whose computed prompts it uses and adds to; empty: everybody's.
    pub(crate) namespace: Arc<str>,
}

impl Client {
    /// One without a key. All programs of this machine are one client.
    pub(crate) fn at(peer: Option<SocketAddr>) -> Self {
        let far = peer
            .map(|peer| peer.ip().to_canonical())
            .filter(|ip| !ip.is_loopback());
        Self {
            name: far.map_or_else(|| "local".into(), |ip| ip.to_string().into()),
            namespace: "".into(),
        }
    }

    /// It is the same who asks, whether or not the configuration has changed what is shared meanwhile.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }

    fn with_key(key: &str, isolation: Isolation) -> Self {
        let hash = format!("{:x}", Sha256::digest(key));
        Self {
            name: format!("key-{}", &hash[..NAME_DIGITS]).into(),
            namespace: match isolation {
                Isolation::Shared => "".into(),
                Isolation::Key => hash.into(),
            },
        }
    }
}

/// The keys of a server, and whom each stands for.
pub(crate) struct Keys(Vec<(String, Client)>);

impl Keys {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let keys = config.api_keys.iter();
        Self(
            keys.map(|key| (key.clone(), Client::with_key(key, config.isolation)))
                .collect(),
        )
    }

    /// Nobody has to bring one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whom a key stands for, if it is one of these. Takes as long whichever it is, so that nobody finds keys out by the clock.
    pub(crate) fn find(&self, given: &[u8]) -> Option<&Client> {
        let (mut is_known, mut index) = (Choice::from(0), 0_u64);
        for (at, (key, _)) in (0..).zip(&self.0) {
            let is_it = key.as_bytes().ct_eq(given);
            index.conditional_assign(&at, is_it);
            is_known |= is_it;
        }
        bool::from(is_known).then(|| &self.0[index as usize].1)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(_, client)| &client.name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(isolation: Isolation) -> Keys {
        Keys::new(&ServerConfig {
            api_keys: vec!["first".to_owned(), "second".to_owned()],
            isolation,
            ..ServerConfig::default()
        })
    }

    #[test]
    fn every_key_is_a_client_whose_name_does_not_give_it_away() {
        let keys = keys(Isolation::Shared);
        let first = keys.find(b"first").unwrap();
        let second = keys.find(b"second").unwrap();
        // The beginning of what `printf first | sha256sum` prints.
        assert_eq!(&*first.name, "key-a7937b64b8ca");
        assert_ne!(first.name, second.name);
        assert_eq!((&*first.namespace, &*second.namespace), ("", ""));
        for wrong in [&b"third"[..], b"", b"firs", b"firstsecond"] {
            assert_eq!(keys.find(wrong), None);
        }
        let shown = format!("{keys:?}");
        assert!(!shown.contains("first"), "{shown}");
    }

    #[test]
    fn isolated_keys_share_no_prompts() {
        let keys = keys(Isolation::Key);
        let namespace = |key: &[u8]| keys.find(key).unwrap().namespace.clone();
        assert_eq!(namespace(b"first").len(), 64);
        assert_ne!(namespace(b"first"), namespace(b"second"));
    }

    #[test]
    fn a_client_stays_the_same_when_isolation_changes() {
        let (shared, isolated) = (keys(Isolation::Shared), keys(Isolation::Key));
        let first = shared.find(b"first").unwrap();
        assert!(first.is(isolated.find(b"first").unwrap()));
        assert!(!first.is(isolated.find(b"second").unwrap()));
        assert!(!first.is(&Client::at(None)));
    }

    #[test]
    fn without_keys_a_client_is_a_machine() {
        let at = |address: &str| Client::at(Some(address.parse().unwrap()));
        assert_eq!(&*at("192.0.2.1:1000").name, "192.0.2.1");
        assert_eq!(at("192.0.2.1:1000"), at("[::ffff:192.0.2.1]:2000"));
        assert_eq!(&*at("127.0.0.1:1000").name, "local");
        assert_eq!(at("[::1]:1000"), Client::at(None));
        assert_eq!(&*at("192.0.2.1:1000").namespace, "");
    }
}
