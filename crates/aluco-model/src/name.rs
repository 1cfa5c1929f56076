//! Names of models, as people and programs write them.
//!
//! | written | means |
//! |---|---|
//! | `smollm2:135m` | a short name: an import of that name, else an entry of the catalogue |
//! | `unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M` | a quantisation in a Hugging Face repository |
//! | `hf.co/ORG/REPO:TAG`, `huggingface.co/…`, `https://…` | the same |
//! | `ORG/REPO` | the best default in it, see [`crate::name::variant::choose`] |
//! | `/models/a.gguf`, `./a.gguf`, `../a.gguf`, `~/a.gguf`, `a.gguf` | a file; the first part of a split model or any other |
//!
//! A name is checked strictly when it is parsed, so that what comes out of here can go into file names and URLs. Paths are
//! the exception: they are the user's own and are taken as they are (`~` is left to the shell).

pub(crate) mod variant;

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ModelError;

/// Longest name that is looked at, in bytes; as long as Linux lets a path be.
const NAME_BYTES_MAX: usize = 4096;
/// Longest part of a name, in bytes; the hub's own limit for repositories.
const PART_BYTES_MAX: usize = 96;
/// Longest tag, in bytes. File names without extension serve as tags, hence longer.
const TAG_BYTES_MAX: usize = 160;

/// Without the hub's address such a name would be a path, and names must not change their meaning when they are printed.
const NAMES_A_FILE: &str = "name the repository and the quantisation, not a .gguf file in it";

const HUB_PREFIXES: [&str; 6] = [
    "https://huggingface.co/",
    "http://huggingface.co/",
    "https://hf.co/",
    "http://hf.co/",
    "huggingface.co/",
    "hf.co/",
];

/// A model's name, parsed. `Display` gives the canonical form, which parses to the same value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// A short name, such as `smollm2:135m`.
    Short(ShortName),
    /// A quantisation in a Hugging Face repository.
    Hub(HubRef),
    /// A GGUF file.
    Path(PathBuf),
}

/// A short name in lower case, such as `smollm2:135m` or `my-model`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShortName(String);

/// A Hugging Face repository, and perhaps a quantisation in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubRef {
    /// The repository.
    pub repo: RepoId,
    /// Which of its models, compared without regard to case: a quantisation such as `Q4_K_M`, or a file name without
    /// extension. `None`: the default.
    pub tag: Option<Tag>,
}

/// A Hugging Face repository, such as `unsloth/Qwen3-30B-A3B-GGUF`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoId(String);

/// What stands after the colon of a [`HubRef`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(String);

impl FromStr for ModelRef {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let invalid = |reason| Err(invalid_name(name, reason));
        if name.is_empty() {
            return invalid("it is empty");
        }
        if name.len() > NAME_BYTES_MAX {
            return invalid("it is too long");
        }
        if name.chars().any(char::is_control) {
            return invalid("it has control characters in it");
        }
        if name.trim() != name {
            return invalid("it starts or ends with a space");
        }
        if let Some(rest) = HUB_PREFIXES.iter().find_map(|p| name.strip_prefix(p)) {
            return Ok(Self::Hub(parse_hub(rest)?));
        }
        if is_path(name) {
            return Ok(Self::Path(PathBuf::from(name)));
        }
        if name.contains('/') {
            return Ok(Self::Hub(parse_hub(name)?));
        }
        Ok(Self::Short(name.parse()?))
    }
}

fn is_path(name: &str) -> bool {
    let by_start = ["/", "./", "../", "~/"]
        .iter()
        .any(|start| name.starts_with(start));
    let by_end = name.len() >= 5
        && name.is_char_boundary(name.len() - 5)
        && name[name.len() - 5..].eq_ignore_ascii_case(".gguf");
    by_start || by_end
}

fn parse_hub(name: &str) -> Result<HubRef, ModelError> {
    let (repo, tag) = match name.split_once(':') {
        Some((repo, tag)) => (repo, Some(tag.parse()?)),
        None => (name.strip_suffix('/').unwrap_or(name), None),
    };
    Ok(HubRef {
        repo: repo.parse()?,
        tag,
    })
}

impl FromStr for RepoId {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let mut parts = name.split('/');
        let (Some(owner), Some(repo), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(invalid_name(
                name,
                "a Hugging Face repository is OWNER/NAME; a relative path starts with ./",
            ));
        };
        for part in [owner, repo] {
            check_part(part, PART_BYTES_MAX).map_err(|reason| invalid_name(name, reason))?;
            if is_path(part) {
                return Err(invalid_name(name, NAMES_A_FILE));
            }
            // The cache folder is called models--OWNER--NAME, so this would make two repositories one.
            if part.contains("--") {
                return Err(invalid_name(name, "-- is not allowed in it"));
            }
        }
        Ok(Self(name.to_owned()))
    }
}

impl FromStr for Tag {
    type Err = ModelError;

    fn from_str(tag: &str) -> Result<Self, ModelError> {
        check_part(tag, TAG_BYTES_MAX).map_err(|reason| invalid_name(tag, reason))?;
        if is_path(tag) {
            return Err(invalid_name(tag, NAMES_A_FILE));
        }
        Ok(Self(tag.to_owned()))
    }
}

impl FromStr for ShortName {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let (family, tag) = match name.split_once(':') {
            Some((family, tag)) => (family, Some(tag)),
            None => (name, None),
        };
        for part in std::iter::once(family).chain(tag) {
            check_part(part, PART_BYTES_MAX).map_err(|reason| invalid_name(name, reason))?;
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

/// Letters, digits, `.`, `_`, `-`; begins and ends with a letter, a digit or `_`; no `..`.
fn check_part(part: &str, bytes_max: usize) -> Result<(), &'static str> {
    if part.is_empty() {
        return Err("a part of it is empty");
    }
    if part.len() > bytes_max {
        return Err("a part of it is too long");
    }
    if !part
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        return Err("only letters, digits, dots, dashes and underscores are allowed in it");
    }
    if part.contains("..") {
        return Err(".. is not allowed in it");
    }
    if part.starts_with(['.', '-']) || part.ends_with(['.', '-']) {
        return Err("a part of it starts or ends with a dot or a dash");
    }
    Ok(())
}

fn invalid_name(name: &str, reason: &'static str) -> ModelError {
    const SHOWN_CHARS_MAX: usize = 120;
    let mut shown: String = name.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    ModelError::InvalidName {
        name: shown,
        reason,
    }
}

impl ShortName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the colon.
    pub fn family(&self) -> &str {
        self.0
            .split_once(':')
            .map_or(self.0.as_str(), |(family, _)| family)
    }
}

impl RepoId {
    /// `OWNER/NAME`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its folder in a hub cache.
    pub(crate) fn cache_folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The repository of a folder in a hub cache.
    pub(crate) fn from_cache_folder(folder: &str) -> Option<Self> {
        let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
        format!("{owner}/{name}").parse().ok()
    }

    /// The hub takes names without regard to case.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Tag {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(name) => name.fmt(f),
            Self::Hub(hub) => hub.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tag {
            Some(tag) => write!(f, "{}:{tag}", self.repo),
            None => self.repo.fmt(f),
        }
    }
}

macro_rules! displayed_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
displayed_as_text!(ShortName, RepoId, Tag);

macro_rules! serialized_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serialized_as_text!(ModelRef, ShortName, RepoId, Tag);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(name: &str) -> ModelRef {
        name.parse().unwrap()
    }

    fn hub(repo: &str, tag: Option<&str>) -> ModelRef {
        ModelRef::Hub(HubRef {
            repo: RepoId(repo.into()),
            tag: tag.map(|t| Tag(t.into())),
        })
    }

    #[test]
    fn short_names_are_lower_cased() {
        assert_eq!(
            parse("SmolLM2:135M"),
            ModelRef::Short(ShortName("smollm2:135m".into()))
        );
        assert_eq!(parse("qwen3.6").to_string(), "qwen3.6");
    }

    #[test]
    fn repositories_are_understood_with_and_without_the_hubs_address() {
        let expected = hub("unsloth/Qwen3-30B-A3B-GGUF", Some("Q4_K_M"));
        for name in [
            "unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M",
            "hf.co/unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M",
            "huggingface.co/unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M",
            "https://huggingface.co/unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M",
        ] {
            assert_eq!(parse(name), expected, "{name}");
        }
        assert_eq!(
            parse("https://hf.co/a/b/"),
            hub("a/b", None),
            "as copied from a browser"
        );
    }

    #[test]
    fn paths_are_taken_as_they_are() {
        for name in [
            "/models/a:b/x.gguf",
            "./x",
            "../up/../x.gguf",
            "~/x.gguf",
            "x.gguf",
            "sub folder/X.GGUF",
        ] {
            assert_eq!(parse(name), ModelRef::Path(name.into()), "{name}");
        }
    }

    #[test]
    fn names_that_could_do_harm_are_refused_with_the_reason() {
        for (name, reason) in [
            ("", "empty"),
            ("a\nb", "control"),
            (" a", "space"),
            ("a/../b", "OWNER/NAME"),
            ("../b:Q4", "path"),
            ("a/..", ".."),
            ("a/b--c", "--"),
            ("a/b:../c", "only letters"),
            ("a/b:..", ".."),
            ("a:b:c", "only letters"),
            ("a/b/c", "OWNER/NAME"),
            ("-rf", "dash"),
            (".hidden", "dot"),
            ("hf.co/a", "OWNER/NAME"),
            ("a/", "OWNER/NAME"),
            ("a//", "empty"),
            ("hf.co/a/b:c.gguf", "not a .gguf file"),
            ("hf.co/a/b.GGUF", "not a .gguf file"),
            ("naïve", "only letters"),
        ] {
            match name.parse::<ModelRef>() {
                Ok(ModelRef::Path(_)) => assert_eq!(reason, "path", "{name:?}"),
                Ok(other) => panic!("{name:?} became {other:?}"),
                Err(error) => assert!(error.to_string().contains(reason), "{name:?}: {error}"),
            }
        }
        let long = "a".repeat(97);
        assert!(
            long.parse::<ModelRef>()
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
        assert!("a".repeat(5000).parse::<ModelRef>().is_err());
    }

    #[test]
    fn cache_folders_and_repositories_map_both_ways() {
        let repo: RepoId = "unsloth/Qwen3-30B-A3B-GGUF".parse().unwrap();
        assert_eq!(repo.cache_folder(), "models--unsloth--Qwen3-30B-A3B-GGUF");
        assert_eq!(RepoId::from_cache_folder(&repo.cache_folder()), Some(repo));
        assert_eq!(RepoId::from_cache_folder("models--gpt2"), None);
        assert_eq!(RepoId::from_cache_folder("datasets--a--b"), None);
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_to_the_same_value(name in "(hf\\.co/)?[A-Za-z0-9._:/~ -]{1,40}(\\.gguf)?") {
            if let Ok(parsed) = name.parse::<ModelRef>() {
                prop_assert_eq!(parsed.to_string().parse::<ModelRef>().unwrap(), parsed.clone());
                let json = serde_json::to_string(&parsed).unwrap();
                prop_assert_eq!(serde_json::from_str::<ModelRef>(&json).unwrap(), parsed);
            }
        }

        #[test]
        fn any_text_parses_or_is_refused_without_a_panic(name in "\\PC{0,60}") {
            if let Ok(ModelRef::Hub(hub)) = name.parse::<ModelRef>() {
                prop_assert!(!hub.repo.cache_folder().contains(['/', '\0']));
                prop_assert!(!hub.repo.as_str().contains(".."));
            }
        }
    }
}
