//! Short names for models that owners of this kind of machine run, and where to get them.
//!
//! The list is a data file, `catalogue.json`, built into the program. A family's first entry answers to the family's name alone.
//! What has been imported under the same short name comes before it (see [`crate::Store::find`]).

use std::sync::LazyLock;

use serde::Deserialize;

use crate::{
    HubRef, ModelError,
    name::{RepoId, ShortName, Tag},
};

/// One entry of the catalogue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueEntry {
    /// The short name, such as `qwen3:30b-a3b`.
    pub name: ShortName,
    repo: RepoId,
    tag: Tag,
    /// A few words for a person: rounded download size, and what it is good for.
    pub about: String,
}

static CATALOGUE: LazyLock<Vec<CatalogueEntry>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("catalogue.json"))
        .expect("the built-in catalogue is checked by a test")
});

/// All entries, families together.
pub fn catalogue() -> &'static [CatalogueEntry] {
    &CATALOGUE
}

impl CatalogueEntry {
    /// Where to get it.
    pub fn hub_ref(&self) -> HubRef {
        HubRef {
            repo: self.repo.clone(),
            tag: Some(self.tag.clone()),
        }
    }
}

/// The entry that a short name means: the one of that name, else the first of that family.
pub(crate) fn lookup(name: &ShortName) -> Option<&'static CatalogueEntry> {
    let exact = CATALOGUE.iter().find(|entry| entry.name == *name);
    exact.or_else(|| {
        CATALOGUE
            .iter()
            .find(|entry| entry.name.family() == name.as_str())
    })
}

/// The short name of a model in a repository, if the catalogue has it.
pub(crate) fn short_name(repo: &RepoId, tag: &str) -> Option<&'static ShortName> {
    CATALOGUE
        .iter()
        .find(|entry| entry.repo.same_as(repo) && entry.tag.as_str().eq_ignore_ascii_case(tag))
        .map(|entry| &entry.name)
}

/// The error for a short name that is not in the catalogue, with what comes near.
pub(crate) fn not_in_catalogue(name: &ShortName) -> ModelError {
    let start: String = name.family().chars().take(3).collect();
    let near = CATALOGUE
        .iter()
        .filter(|entry| entry.name.as_str().starts_with(&start))
        .map(|entry| entry.name.to_string())
        .collect();
    ModelError::NotInCatalogue {
        name: name.to_string(),
        near,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_entry_is_valid_and_no_name_comes_twice() {
        let names: BTreeSet<_> = catalogue().iter().map(|entry| &entry.name).collect();
        assert_eq!(names.len(), catalogue().len());
        for entry in catalogue() {
            let text = entry.hub_ref().to_string();
            assert_eq!(
                text.parse::<crate::ModelRef>().unwrap(),
                crate::ModelRef::Hub(entry.hub_ref())
            );
            assert!(
                crate::name::variant::quant_label(entry.tag.as_str()).is_some(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_family_alone_means_its_first_entry() {
        let family = lookup(&"smollm2".parse().unwrap()).unwrap();
        assert_eq!(family.name.as_str(), "smollm2:135m");
        assert!(lookup(&"smollm2:9t".parse().unwrap()).is_none());
    }

    #[test]
    fn an_unknown_name_is_answered_with_its_neighbours() {
        let text = not_in_catalogue(&"gemma9".parse().unwrap()).to_string();
        assert!(text.contains("gemma3:27b"), "{text}");
    }
}
