//! What figures depend on beside what was measured, and what of it has changed since.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What figures depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of Aluco.
    pub aluco: String,
    /// Release of the kernel.
    pub kernel: String,
    /// The CPU's name.
    pub cpu: String,
    /// The GPU's name, if one was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Builds of llama.cpp by their backends, such as `vulkan`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub engines: BTreeMap<String, String>,
}

/// Something that is no longer what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its name in a sentence, such as `kernel`.
    pub what: String,
    /// What it was.
    pub then: String,
    /// What it is.
    pub now: String,
}

impl Versions {
    /// What has changed since these were noted. What was not known at either time is no change, and neither is another Aluco: it measures in
    /// the same way.
    pub fn changes(&self, now: &Self) -> Vec<Change> {
        let kernel = (Some(&self.kernel), Some(&now.kernel), "kernel");
        let cpu = (Some(&self.cpu), Some(&now.cpu), "processor");
        let gpu = (self.gpu.as_ref(), now.gpu.as_ref(), "GPU");
        let engines = self
            .engines
            .iter()
            .map(|(backend, then)| (Some(then), now.engines.get(backend), "llama.cpp"));
        let all = [kernel, cpu, gpu].into_iter().chain(engines);
        all.filter_map(|(then, now, what)| {
            let (then, now) = (then?, now?);
            let is_known = |text: &str| !text.is_empty() && text != UNKNOWN;
            let has_changed = then != now && is_known(then) && is_known(now);
            has_changed.then(|| Change {
                what: what.to_owned(),
                then: then.clone(),
                now: now.clone(),
            })
        })
        .collect()
    }
}

/// What stands for a text that the machine does not tell.
pub const UNKNOWN: &str = "unknown";

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, now {}", self.what, self.then, self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions() -> Versions {
        Versions {
            aluco: "0.1.0".to_owned(),
            kernel: "6.17.1".to_owned(),
            cpu: "a CPU".to_owned(),
            gpu: Some("Radeon 8060S".to_owned()),
            engines: BTreeMap::from([("vulkan".to_owned(), "b12032".to_owned())]),
        }
    }

    #[test]
    fn what_changed_is_told_with_both_states() {
        assert_eq!(versions().changes(&versions()), []);
        let now = Versions {
            kernel: "7.1.3".to_owned(),
            gpu: Some("Radeon R9700".to_owned()),
            engines: BTreeMap::from([("vulkan".to_owned(), "b13000".to_owned())]),
            ..versions()
        };
        let told: Vec<String> = versions()
            .changes(&now)
            .iter()
            .map(Change::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "kernel 6.17.1, now 7.1.3",
                "GPU Radeon 8060S, now Radeon R9700",
                "llama.cpp b12032, now b13000"
            ]
        );
    }

    #[test]
    fn what_is_not_known_has_not_changed() {
        let now = Versions {
            aluco: "0.2.0".to_owned(),
            kernel: UNKNOWN.to_owned(),
            gpu: None,
            engines: BTreeMap::from([("rocm".to_owned(), "b13000".to_owned())]),
            ..versions()
        };
        assert_eq!(versions().changes(&now), []);
        assert_eq!(now.changes(&versions()), []);
    }

    #[test]
    fn records_of_before_these_were_kept_are_still_read() {
        let old = r#"{"aluco":"0.1.0","kernel":"6.17.1","cpu":"a CPU"}"#;
        let old: Versions = serde_json::from_str(old).unwrap();
        assert_eq!((old.gpu.clone(), old.engines.len()), (None, 0));
        assert_eq!(old.changes(&versions()), []);
    }
}
