//! The header as a whole.

use std::{fmt, io::Read};

use super::{
    Array, GgufError, Limits, Metadata, TensorInfo, Value, ValueType, cursor::Cursor,
    error::Quoted, tensor::read_tensors,
};

/// Where tensors are aligned to if the file does not say, in bytes.
const ALIGNMENT_DEFAULT: u64 = 32;

const ALIGNMENT_KEY: &str = "general.alignment";

/// Everything in a GGUF file before the tensors' bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Keys and values.
    pub metadata: Metadata,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of the tensors, in bytes: a power of two.
    pub alignment: u64,
    /// Bytes of the header, up to the end of the tensor list.
    pub header_bytes: u64,
    /// Where the tensors' bytes begin in the file: the end of the header, padded to the alignment.
    pub data_offset: u64,
}

impl Header {
    /// Reads a header from the start of a file. The stream is buffered here and may be read some way past the header.
    ///
    /// No claim of the file costs more memory than the bytes that are really there, and none more than `limits` allow.
    pub fn read(reader: impl Read, limits: &Limits) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(reader, limits.header_bytes_max);
        let magic = cursor.bytes::<4>(format_args!("the first four bytes"))?;
        if &magic != b"GGUF" {
            return Err(GgufError::NotGguf { magic });
        }
        let version = cursor.u32(format_args!("version"))?;
        match version {
            2 | 3 => {}
            // A small number in the uppermost byte is one that was written the other way round.
            _ if version != 0 && version.trailing_zeros() >= 24 => {
                return Err(GgufError::BigEndian {
                    version: version.swap_bytes(),
                });
            }
            _ => return Err(GgufError::UnsupportedVersion { version }),
        }
        let tensor_count = cursor.count(
            "tensors",
            limits.tensors_max,
            format_args!("number of tensors"),
        )?;
        let key_count = cursor.count("keys", limits.keys_max, format_args!("number of keys"))?;

        let mut values = ValueReader {
            limits,
            elements_left: limits.elements_kept_max,
        };
        let mut metadata = Metadata::default();
        let mut alignment = ALIGNMENT_DEFAULT;
        for number in 1..=key_count {
            let key_at = cursor.offset();
            let key = read_key(&mut cursor, number, limits)?;
            let value_at = cursor.offset();
            let value = values.read(&mut cursor, &key)?;
            if key == ALIGNMENT_KEY {
                alignment = check_alignment(&value, value_at, limits)?;
            }
            if let Err(key) = metadata.insert_new(key, value) {
                return Err(malformed(
                    key_at,
                    format_args!("key {number}"),
                    format!("there is already a key {}", Quoted(&key)),
                ));
            }
        }
        let tensors = read_tensors(&mut cursor, tensor_count, alignment, limits)?;
        let header_bytes = cursor.offset();
        Ok(Self {
            version,
            metadata,
            tensors,
            alignment,
            header_bytes,
            // Both are bounded far below the largest number: the one by `header_bytes_max`, the other by `alignment_max`.
            data_offset: header_bytes.next_multiple_of(alignment),
        })
    }

    /// Elements of all tensors.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::elements).sum()
    }

    /// Bytes that the file has at least: up to the end of the last tensor, or of the header if there are no tensors. Of a tensor of an
    /// unknown type only the beginning is known.
    pub fn file_bytes_min(&self) -> u64 {
        let end = self
            .tensors
            .iter()
            .map(|tensor| {
                self.data_offset
                    .saturating_add(tensor.offset())
                    .saturating_add(tensor.bytes().unwrap_or(0))
            })
            .max();
        end.unwrap_or(self.header_bytes)
    }
}

fn read_key<R: Read>(
    cursor: &mut Cursor<R>,
    number: u64,
    limits: &Limits,
) -> Result<String, GgufError> {
    let offset = cursor.offset();
    let subject = format_args!("key {number}");
    let key = cursor.byte_string(limits.key_bytes_max, subject)?;
    match String::from_utf8(key) {
        Ok(key) if key.is_empty() => Err(malformed(offset, subject, "it is empty".into())),
        Ok(key) => Ok(key),
        Err(_) => Err(malformed(offset, subject, "it is not UTF-8".into())),
    }
}

fn check_alignment(value: &Value, offset: u64, limits: &Limits) -> Result<u64, GgufError> {
    let subject = format_args!("{ALIGNMENT_KEY}");
    let Value::U32(alignment) = *value else {
        return Err(malformed(
            offset,
            subject,
            "it is not a 32-bit number".into(),
        ));
    };
    if !alignment.is_power_of_two() {
        return Err(malformed(
            offset,
            subject,
            format!("{alignment} is not a power of two"),
        ));
    }
    if alignment > limits.alignment_max {
        return Err(GgufError::OverLimit {
            offset,
            subject: subject.to_string(),
            what: "bytes of alignment",
            claimed: alignment.into(),
            max: limits.alignment_max.into(),
        });
    }
    Ok(alignment.into())
}

/// Reads values and keeps count of what arrays cost.
struct ValueReader<'a> {
    limits: &'a Limits,
    elements_left: u64,
}

impl ValueReader<'_> {
    /// A type and a value of it.
    fn read<R: Read>(&mut self, cursor: &mut Cursor<R>, key: &str) -> Result<Value, GgufError> {
        let value_type = read_type(cursor, key)?;
        self.value(cursor, value_type, key, 0)
    }

    fn value<R: Read>(
        &mut self,
        cursor: &mut Cursor<R>,
        value_type: ValueType,
        key: &str,
        nesting: u32,
    ) -> Result<Value, GgufError> {
        let quoted = Quoted(key);
        let subject = format_args!("value of {quoted}");
        let offset = cursor.offset();
        Ok(match value_type {
            ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.bytes(subject)?)),
            ValueType::Bool => match cursor.bytes(subject)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(malformed(
                        offset,
                        subject,
                        format!("a truth value is 0 or 1, not {other}"),
                    ));
                }
            },
            ValueType::String => {
                let bytes = cursor.byte_string(self.limits.string_bytes_max, subject)?;
                Value::String(match String::from_utf8(bytes) {
                    Ok(text) => text,
                    Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
                })
            }
            ValueType::Array => Value::Array(self.array(cursor, key, nesting + 1)?),
        })
    }

    fn array<R: Read>(
        &mut self,
        cursor: &mut Cursor<R>,
        key: &str,
        nesting: u32,
    ) -> Result<Array, GgufError> {
        let (element_type, length) = self.array_start(cursor, key, nesting)?;
        let wanted = if length <= self.limits.array_kept_max {
            length
        } else {
            self.limits.array_head
        };
        let kept = wanted.min(length).min(self.elements_left);
        self.elements_left -= kept;
        let mut items = Vec::new();
        for _ in 0..kept {
            items.push(self.value(cursor, element_type, key, nesting)?);
        }
        self.skip(cursor, element_type, length - kept, key, nesting)?;
        Ok(Array {
            element_type,
            length,
            items,
        })
    }

    fn array_start<R: Read>(
        &self,
        cursor: &mut Cursor<R>,
        key: &str,
        nesting: u32,
    ) -> Result<(ValueType, u64), GgufError> {
        let offset = cursor.offset();
        let quoted = Quoted(key);
        let subject = format_args!("array {quoted}");
        if nesting > self.limits.array_nesting_max {
            return Err(GgufError::OverLimit {
                offset,
                subject: subject.to_string(),
                what: "arrays within each other",
                claimed: nesting.into(),
                max: self.limits.array_nesting_max.into(),
            });
        }
        let element_type = read_type(cursor, key)?;
        let length = cursor.count("elements", self.limits.array_elements_max, subject)?;
        cursor.claim(length.saturating_mul(element_type.bytes_min()), subject)?;
        Ok((element_type, length))
    }

    /// Passes over elements of an array, with the same checks on what they claim.
    fn skip<R: Read>(
        &self,
        cursor: &mut Cursor<R>,
        element_type: ValueType,
        count: u64,
        key: &str,
        nesting: u32,
    ) -> Result<(), GgufError> {
        let quoted = Quoted(key);
        let subject = format_args!("array {quoted}");
        if let Some(bytes) = element_type.fixed_bytes() {
            return cursor.skip(count.saturating_mul(bytes), subject);
        }
        for _ in 0..count {
            if element_type == ValueType::String {
                let length =
                    cursor.count("bytes of text", self.limits.string_bytes_max, subject)?;
                cursor.skip(length, subject)?;
            } else {
                let (inner_type, inner_length) = self.array_start(cursor, key, nesting + 1)?;
                self.skip(cursor, inner_type, inner_length, key, nesting + 1)?;
            }
        }
        Ok(())
    }
}

fn read_type<R: Read>(cursor: &mut Cursor<R>, key: &str) -> Result<ValueType, GgufError> {
    let offset = cursor.offset();
    let quoted = Quoted(key);
    let subject = format_args!("type of {quoted}");
    let id = cursor.u32(subject)?;
    ValueType::from_id(id)
        .ok_or_else(|| malformed(offset, subject, format!("there is no value type {id}")))
}

pub(super) fn malformed(offset: u64, subject: fmt::Arguments<'_>, problem: String) -> GgufError {
    GgufError::Malformed {
        offset,
        subject: subject.to_string(),
        problem,
    }
}
