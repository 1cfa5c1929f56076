//! A model on disk: one file, or the parts of a split one.

use std::{
    collections::HashSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{GgufError, Header, Limits, Metadata, TensorInfo, error::Quoted};
use crate::name::variant::{split_part, strip_gguf};

/// One file of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// Its header.
    pub header: Header,
}

/// A whole model: the headers of all its files, with all tensors there.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufFile {
    parts: Vec<Part>,
}

impl GgufFile {
    /// Opens a model by any of its files, under the default [`Limits`].
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::open_within(path, &Limits::default())
    }

    /// Opens a model by any of its files. The other parts of a split one are looked for in the same folder, under the names that
    /// llama.cpp gives them: `NAME-00001-of-00003.gguf` and so on.
    pub fn open_within(path: &Path, limits: &Limits) -> Result<Self, GgufError> {
        let opened = read_part(path, limits)?;
        let Some(split) = Split::of(&opened, limits).map_err(GgufError::in_file(path))? else {
            return Ok(Self {
                parts: vec![opened],
            });
        };
        let paths = sibling_paths(path, &split).map_err(GgufError::in_file(path))?;
        let present = paths.iter().filter(|path| path.is_file()).count() as u64;
        if let Some(missing) = paths.iter().find(|path| !path.is_file()) {
            return Err(GgufError::in_file(missing)(GgufError::MissingPart {
                present,
                total: split.count,
            }));
        }
        Self::join(&paths, Some(opened), limits)
    }

    /// Opens a model of which all files are known, in order.
    pub fn open_parts(paths: &[PathBuf], limits: &Limits) -> Result<Self, GgufError> {
        Self::join(paths, None, limits)
    }

    /// The files, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Keys and values of the model: those of the first part; the others repeat nothing but their number.
    pub fn metadata(&self) -> &Metadata {
        &self.parts[0].header.metadata
    }

    /// The tensors of all parts.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.parts.iter().flat_map(|part| &part.header.tensors)
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Reads the parts, save one that has been read already, and checks that they belong together.
    fn join(
        paths: &[PathBuf],
        mut opened: Option<Part>,
        limits: &Limits,
    ) -> Result<Self, GgufError> {
        let mut left = limits.clone();
        let mut parts = Vec::<Part>::new();
        for (index, path) in paths.iter().enumerate() {
            let part = match opened.take_if(|part| part.path == *path) {
                Some(part) => part,
                None => read_part(path, &left)?,
            };
            let split = Split::of(&part, limits).map_err(GgufError::in_file(path))?;
            check_place(split.as_ref(), index as u64, paths.len() as u64)
                .map_err(GgufError::in_file(path))?;
            left.tensors_max = left
                .tensors_max
                .saturating_sub(part.header.tensors.len() as u64);
            parts.push(part);
        }
        let file = Self { parts };
        let Some(first) = file.parts.first() else {
            return Err(GgufError::NotAFile);
        };
        file.check_tensors()
            .map_err(GgufError::in_file(&first.path))?;
        Ok(file)
    }

    fn check_tensors(&self) -> Result<(), GgufError> {
        let mut names = HashSet::new();
        if let Some(twice) = self.tensors().find(|tensor| !names.insert(tensor.name())) {
            return Err(GgufError::PartMismatch {
                problem: format!("two parts have a tensor {}", Quoted(twice.name())),
            });
        }
        let present = names.len() as u64;
        match self.metadata().u64("split.tensors.count") {
            Some(expected) if expected != present => Err(GgufError::PartMismatch {
                problem: format!("it announces {expected} tensors, and all parts have {present}"),
            }),
            _ => Ok(()),
        }
    }
}

/// What a part says about its place among the parts.
struct Split {
    /// Which part it is, from 0.
    number: u64,
    /// Parts of the model, two or more.
    count: u64,
}

impl Split {
    /// `None` for a model in one file.
    fn of(part: &Part, limits: &Limits) -> Result<Option<Self>, GgufError> {
        let metadata = &part.header.metadata;
        let count = metadata.u64("split.count").unwrap_or(1);
        let number = metadata.u64("split.no").unwrap_or(0);
        let problem = if count > limits.parts_max {
            format!(
                "it claims to be one of {count} parts, and no more than {} are accepted",
                limits.parts_max
            )
        } else if number >= count.max(1) {
            format!("it claims to be number {number}, counted from 0, of {count}")
        } else {
            return Ok((count > 1).then_some(Self { number, count }));
        };
        Err(GgufError::PartMismatch { problem })
    }
}

/// Checks that a part is what its place in the list says.
fn check_place(split: Option<&Split>, index: u64, total: u64) -> Result<(), GgufError> {
    let problem = match split {
        None if total == 1 => return Ok(()),
        None => format!(
            "it stands for part {} of {total} and is a whole model",
            index + 1
        ),
        Some(split) if split.count != total => format!(
            "it is one of {} parts, and {total} belong to the model",
            split.count
        ),
        Some(split) if split.number != index => format!(
            "it stands for part {} of {total} and is part {}",
            index + 1,
            split.number + 1
        ),
        Some(_) => return Ok(()),
    };
    Err(GgufError::PartMismatch { problem })
}

/// The names of all parts, from the name of one.
fn sibling_paths(path: &Path, split: &Split) -> Result<Vec<PathBuf>, GgufError> {
    let Split { number, count } = *split;
    let file_name = path.file_name().and_then(|name| name.to_str());
    let named = file_name.and_then(strip_gguf).and_then(split_part);
    let (Some((stem, named_number, named_count)), Some(file_name)) = (named, file_name) else {
        return Err(GgufError::PartName {
            number: number + 1,
            total: count,
        });
    };
    if (named_number as u64, named_count as u64) != (number + 1, count) {
        return Err(GgufError::PartMismatch {
            problem: format!(
                "by its name it is part {named_number} of {named_count}, by its header part {} of {count}",
                number + 1
            ),
        });
    }
    let extension = &file_name[file_name.len() - ".gguf".len()..];
    Ok((1..=count)
        .map(|part| path.with_file_name(format!("{stem}-{part:05}-of-{count:05}{extension}")))
        .collect())
}

/// One file's header, with the file's length checked against it.
fn read_part(path: &Path, limits: &Limits) -> Result<Part, GgufError> {
    // Asked before opening: a named pipe would wait for a writer for ever.
    let metadata = fs::metadata(path).map_err(GgufError::in_file(path))?;
    if !metadata.is_file() {
        return Err(GgufError::in_file(path)(GgufError::NotAFile));
    }
    let file = File::open(path).map_err(GgufError::in_file(path))?;
    let header = Header::read(file, limits).map_err(GgufError::in_file(path))?;
    let expected_bytes = header.file_bytes_min();
    let present_bytes = metadata.len();
    if present_bytes < expected_bytes {
        return Err(GgufError::in_file(path)(GgufError::Truncated {
            expected_bytes,
            present_bytes,
        }));
    }
    Ok(Part {
        path: path.to_owned(),
        bytes: present_bytes,
        header,
    })
}
