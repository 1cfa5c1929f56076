//! Versions of kernels, drivers and packages, and their order.

use std::{cmp::Ordering, fmt};

/// A version as text, ordered by its numbers: `6.18.4` < `6.18.10`, `7.0.0-rc2` < `7.0.0` < `7.0.0-31`.
///
/// The leading numbers decide first, with `6.18` the same as `6.18.0`; then whether it is a release candidate; then the
/// numbers of what follows, which is how distributions count their own changes (`6.17.0-19.19~24.04.2`).
#[derive(Debug, Clone)]
pub struct Version {
    text: String,
    upstream: Vec<u64>,
    is_candidate: bool,
    build: Vec<u64>,
}

impl Version {
    /// Reads a version; `None` if the text does not begin with a number. An epoch (`1:2.3`) and a leading `v` are passed over.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let bare = text.strip_prefix('v').unwrap_or(text);
        let bare = match bare.split_once(':') {
            Some((epoch, rest)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => rest,
            _ => bare,
        };
        let upstream_end = bare
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(bare.len());
        let (upstream, rest) = bare.split_at(upstream_end);
        let mut upstream = numbers(upstream);
        if upstream.is_empty() || !bare.starts_with(|letter: char| letter.is_ascii_digit()) {
            return None;
        }
        while upstream.last() == Some(&0) {
            upstream.pop();
        }
        let marker = rest.trim_start_matches(['-', '.', '~', '_']);
        Some(Self {
            text: text.to_owned(),
            upstream,
            is_candidate: marker.starts_with("rc") || rest.starts_with('~'),
            build: numbers(rest),
        })
    }
}

/// The runs of digits of a text. A run too long for a number counts as the largest.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|letter: char| !letter.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
        .collect()
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.upstream
            .cmp(&other.upstream)
            .then_with(|| other.is_candidate.cmp(&self.is_candidate))
            .then_with(|| self.build.cmp(&other.build))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels_and_packages_are_ordered_by_their_numbers() {
        let ascending = [
            "6.14.0-1014-oem",
            "6.14.0-1018-oem",
            "6.16.9",
            "6.17.0-19.19~24.04.1",
            "6.17.0-19.19~24.04.2",
            "6.17.0-35-generic",
            "6.18.4",
            "6.18.10-200.fc43.x86_64",
            "7.0.0-rc2",
            "7.0.0-31-generic",
            "7.1.3-100.fc43.x86_64",
            "7.2.0-1-cachyos",
            "20240318.git3b128b60-0ubuntu2.27",
            "20260309-1.fc43",
        ];
        for pair in ascending.windows(2) {
            let [low, high] = pair else { unreachable!() };
            assert!(
                Version::parse(low) < Version::parse(high),
                "{low} before {high}"
            );
        }
        assert_eq!(Version::parse("6.18"), Version::parse("6.18.0"));
        assert_eq!(Version::parse("v1:26.0.2"), Version::parse("26.0.2"));
    }

    #[test]
    fn text_without_a_leading_number_is_no_version() {
        for text in ["", "v", "linux", "-1", ".5", "rc1", "\u{0}"] {
            assert!(Version::parse(text).is_none(), "{text:?}");
        }
        assert!(Version::parse("99999999999999999999999.1").is_some());
    }
}
