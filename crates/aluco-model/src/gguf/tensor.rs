//! The list of tensors.

use std::{collections::HashSet, fmt, io::Read};

use super::{GgufError, Limits, TensorType, cursor::Cursor, error::Quoted, header::malformed};

/// llama.cpp's `GGML_MAX_DIMS`.
const DIMENSIONS_MAX: u32 = 4;

/// One tensor: what it is called, how it is shaped and stored, and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    dimensions: Vec<u64>,
    tensor_type: TensorType,
    offset: u64,
    elements: u64,
    bytes: Option<u64>,
}

impl TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Elements along each dimension, at most four, the fastest-running first (the length of a row).
    pub fn dimensions(&self) -> &[u64] {
        &self.dimensions
    }

    /// How its elements are stored.
    pub fn tensor_type(&self) -> TensorType {
        self.tensor_type
    }

    /// Where its bytes begin, counted from [`super::Header::data_offset`].
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Elements in all.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Bytes in the file, without padding. `None` if the type is unknown.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }
}

/// Reads `count` tensors. Each must begin where the one before ends, padded to the alignment, as llama.cpp demands too; after one of an
/// unknown type any aligned place that does not go back is accepted.
pub(super) fn read_tensors<R: Read>(
    cursor: &mut Cursor<R>,
    count: u64,
    alignment: u64,
    limits: &Limits,
) -> Result<Vec<TensorInfo>, GgufError> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    let mut end = 0_u64;
    let mut end_is_exact = true;
    let mut elements = 0_u64;
    for number in 1..=count {
        let start = cursor.offset();
        let (tensor, offset_at) = read_tensor(cursor, number, limits)?;
        let quoted = Quoted(&tensor.name);
        let wrong = |problem| {
            Err(malformed(
                offset_at,
                format_args!("tensor {quoted}"),
                problem,
            ))
        };
        if !tensor.offset.is_multiple_of(alignment) {
            return wrong(format!(
                "it begins at {}, which is no multiple of the alignment {alignment}",
                tensor.offset
            ));
        }
        if tensor.offset < end || (end_is_exact && tensor.offset > end) {
            return wrong(format!(
                "it begins at {} and the tensor before it ends at {end}",
                tensor.offset
            ));
        }
        let Some(next) = tensor
            .offset
            .checked_add(tensor.bytes.unwrap_or(0))
            .and_then(|end| end.checked_next_multiple_of(alignment))
        else {
            return wrong("it ends beyond what a file can hold".into());
        };
        end = next;
        end_is_exact = tensor.bytes.is_some();
        let Some(sum) = elements.checked_add(tensor.elements) else {
            return wrong("all tensors together have more elements than can be counted".into());
        };
        elements = sum;
        if !names.insert(tensor.name.clone()) {
            return Err(malformed(
                start,
                format_args!("tensor {number}"),
                format!("there is already a tensor {quoted}"),
            ));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// One tensor, and where its offset stands in the file.
fn read_tensor<R: Read>(
    cursor: &mut Cursor<R>,
    number: u64,
    limits: &Limits,
) -> Result<(TensorInfo, u64), GgufError> {
    let start = cursor.offset();
    let subject = format_args!("name of tensor {number}");
    let name = cursor.byte_string(limits.tensor_name_bytes_max, subject)?;
    let Ok(name) = String::from_utf8(name) else {
        return Err(malformed(start, subject, "it is not UTF-8".into()));
    };
    let quoted = Quoted(&name);

    let shape_at = cursor.offset();
    let subject = format_args!("shape of tensor {quoted}");
    let wrong = |problem| malformed(shape_at, subject, problem);
    let rank = cursor.u32(subject)?;
    if rank > DIMENSIONS_MAX {
        return Err(wrong(format!(
            "it has {rank} dimensions, and {DIMENSIONS_MAX} is the most"
        )));
    }
    let mut dimensions = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        dimensions.push(cursor.u64(subject)?);
    }
    let Some(elements) = count_elements(&dimensions) else {
        return Err(wrong(format!(
            "a tensor of {} is too large",
            Shape(&dimensions)
        )));
    };

    let tensor_type = TensorType(cursor.u32(format_args!("type of tensor {quoted}"))?);
    let bytes = match (tensor_type.block_elements(), tensor_type.block_bytes()) {
        (Some(block_elements), Some(block_bytes)) => {
            let row = dimensions.first().copied().unwrap_or(1);
            if !row.is_multiple_of(block_elements) {
                return Err(wrong(format!(
                    "its rows of {row} elements are no whole number of blocks of {block_elements} ({tensor_type})"
                )));
            }
            let Some(bytes) = (elements / block_elements).checked_mul(block_bytes) else {
                return Err(wrong(format!(
                    "a tensor of {} in {tensor_type} is too large",
                    Shape(&dimensions)
                )));
            };
            Some(bytes)
        }
        _ => None,
    };

    let offset_at = cursor.offset();
    let offset = cursor.u64(format_args!("offset of tensor {quoted}"))?;
    let tensor = TensorInfo {
        name,
        dimensions,
        tensor_type,
        offset,
        elements,
        bytes,
    };
    Ok((tensor, offset_at))
}

/// The product, if llama.cpp's signed 64 bits hold it and each factor. A zero elsewhere does not excuse a factor that is too large.
fn count_elements(dimensions: &[u64]) -> Option<u64> {
    let largest = i64::MAX as u64;
    if dimensions.iter().any(|&length| length > largest) {
        return None;
    }
    if dimensions.contains(&0) {
        return Some(0);
    }
    dimensions
        .iter()
        .try_fold(1_u64, |product, &length| product.checked_mul(length))
        .filter(|&product| product <= largest)
}

struct Shape<'a>(&'a [u64]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, length) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " × " };
            write!(f, "{separator}{length}")?;
        }
        Ok(())
    }
}
