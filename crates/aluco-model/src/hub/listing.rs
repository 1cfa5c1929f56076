//! What the hub says of a repository: `GET /api/models/OWNER/REPO/revision/main?blobs=true`.
//!
//! The answer is turned into file names and paths on this machine, so it is checked strictly.

use serde::Deserialize;

use crate::{ModelError, RepoId, name::variant::strip_gguf};

/// The state of a repository's `main`.
#[derive(Debug)]
pub(super) struct Revision {
    /// The repository as the hub writes it, if that is the one that was asked for.
    pub(super) repo: RepoId,
    pub(super) commit: String,
    /// Its GGUF files.
    pub(super) files: Vec<RemoteFile>,
}

/// A file in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Path within the repository.
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) hash: ContentHash,
}

/// The published hash of a file's contents, which is the name of its blob, in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContentHash {
    /// SHA-256, of what is stored outside Git as all models of some size are.
    Sha256(String),
    /// Git's own, of what is small enough to be in Git itself: SHA-1 over `blob SIZE\0` and the contents.
    Git(String),
}

impl ContentHash {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(hash) | Self::Git(hash) => hash,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: String,
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// Reads the hub's answer about `asked`, which came from `url`.
pub(super) fn parse(answer: &[u8], asked: &RepoId, url: &str) -> Result<Revision, ModelError> {
    let unusable = |reason: String| ModelError::HubAnswer {
        url: url.to_owned(),
        reason,
    };
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|error| unusable(format!("it is not a description of a model: {error}")))?;
    if !is_hex(&answer.sha, 40) {
        return Err(unusable("its commit is not a hash".into()));
    }
    let mut files = Vec::new();
    for sibling in answer.siblings {
        if strip_gguf(&sibling.rfilename).is_some() {
            files.push(remote_file(sibling).map_err(&unusable)?);
        }
    }
    let repo = answer.id.parse().ok().filter(|id| asked.same_as(id));
    Ok(Revision {
        repo: repo.unwrap_or_else(|| asked.clone()),
        commit: answer.sha,
        files,
    })
}

fn remote_file(sibling: Sibling) -> Result<RemoteFile, String> {
    let path = sibling.rfilename;
    let harmless = path.len() <= 1024
        && !path.contains(['\\', '\0'])
        && !path.chars().any(char::is_control)
        && path
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255);
    if !harmless {
        return Err(format!("{path:?} is not a usable file name"));
    }
    let (hash, size_bytes) = match (sibling.lfs, sibling.blob_id, sibling.size) {
        (Some(lfs), _, _) if is_hex(&lfs.sha256, 64) => (ContentHash::Sha256(lfs.sha256), lfs.size),
        (None, Some(blob), Some(size)) if is_hex(&blob, 40) => (ContentHash::Git(blob), size),
        _ => return Err(format!("it has no size and hash for {path}")),
    };
    Ok(RemoteFile {
        path,
        size_bytes,
        hash,
    })
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn parse_file(file: &str) -> Result<Revision, ModelError> {
        let text = format!(r#"{{"id":"Owner/Repo","sha":"{COMMIT}","siblings":[{file}]}}"#);
        parse(text.as_bytes(), &"owner/repo".parse().unwrap(), "the hub")
    }

    fn lfs(path: &str, sha256: &str) -> String {
        format!(
            r#"{{"rfilename":{path:?},"size":130,"blobId":"aa","lfs":{{"sha256":"{sha256}","size":7,"pointerSize":130}}}}"#
        )
    }

    #[test]
    fn large_files_go_by_sha256_and_small_ones_by_gits_hash() {
        let revision = parse_file(&lfs("a/b.gguf", &"ab".repeat(32))).unwrap();
        assert_eq!(revision.repo.as_str(), "Owner/Repo");
        assert_eq!(revision.commit, COMMIT);
        let hash = ContentHash::Sha256("ab".repeat(32));
        assert_eq!(
            (&revision.files[0].hash, revision.files[0].size_bytes),
            (&hash, 7)
        );

        let small = format!(r#"{{"rfilename":"s.gguf","size":9,"blobId":"{COMMIT}"}}"#);
        let revision = parse_file(&small).unwrap();
        assert_eq!(revision.files[0].hash, ContentHash::Git(COMMIT.into()));
    }

    #[test]
    fn other_files_are_passed_over_whatever_they_are_called() {
        let revision = parse_file(r#"{"rfilename":"../README.md"}"#).unwrap();
        assert_eq!(revision.files, []);
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        for path in [
            "../x.gguf",
            "/x.gguf",
            "a//x.gguf",
            "a/../../x.gguf",
            "a\\x.gguf",
        ] {
            let error = parse_file(&lfs(path, &"ab".repeat(32))).unwrap_err();
            assert!(
                error.to_string().contains("not a usable file name"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_hash_that_is_none_is_refused() {
        for hash in ["", "../../x", &"AB".repeat(32), &"ab".repeat(20)] {
            assert!(parse_file(&lfs("x.gguf", hash)).is_err(), "{hash}");
        }
        assert!(parse_file(r#"{"rfilename":"x.gguf","size":1}"#).is_err());
    }
}
