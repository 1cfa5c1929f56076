//! Writes small GGUF files, for tests. Tensors get zeros for bytes.

use std::{fs, io, path::Path};

use super::{Array, TensorType, Value, ValueType};

/// A file in the making. Nothing is checked, so that wrong files can be written too.
#[derive(Debug, Clone)]
pub struct Writer {
    version: u32,
    alignment: u64,
    keys: Vec<(String, Value)>,
    tensors: Vec<PlacedTensor>,
}

#[derive(Debug, Clone)]
struct PlacedTensor {
    name: String,
    dimensions: Vec<u64>,
    tensor_type: TensorType,
    offset: Option<u64>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            version: 3,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl Writer {
    /// A file of version 3 without keys and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the version of the format.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Aligns the tensors' bytes to a power of two, and says so in the file.
    #[must_use]
    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment.into();
        self.key("general.alignment", alignment)
    }

    /// Adds a key.
    #[must_use]
    pub fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.push((key.into(), value.into()));
        self
    }

    /// Adds a tensor behind the others.
    #[must_use]
    pub fn tensor(self, name: &str, dimensions: &[u64], tensor_type: TensorType) -> Self {
        self.tensor_placed(name, dimensions, tensor_type, None)
    }

    /// Adds a tensor that claims to be at an offset of its own.
    #[must_use]
    pub fn tensor_at(
        self,
        name: &str,
        dimensions: &[u64],
        tensor_type: TensorType,
        offset: u64,
    ) -> Self {
        self.tensor_placed(name, dimensions, tensor_type, Some(offset))
    }

    fn tensor_placed(
        mut self,
        name: &str,
        dimensions: &[u64],
        tensor_type: TensorType,
        offset: Option<u64>,
    ) -> Self {
        self.tensors.push(PlacedTensor {
            name: name.into(),
            dimensions: dimensions.into(),
            tensor_type,
            offset,
        });
        self
    }

    /// The header's bytes, without padding.
    pub fn header(&self) -> Vec<u8> {
        self.lay_out().0
    }

    /// The whole file's bytes.
    pub fn file(&self) -> Vec<u8> {
        let (mut bytes, data_bytes) = self.lay_out();
        if !self.tensors.is_empty() {
            let data_offset = bytes.len().next_multiple_of(self.alignment as usize);
            bytes.resize(data_offset + data_bytes as usize, 0);
        }
        bytes
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, self.file())
    }

    /// The header, and how many bytes the tensors take.
    fn lay_out(&self) -> (Vec<u8>, u64) {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            put_text(&mut out, key);
            out.extend(value.value_type().id().to_le_bytes());
            put_value(&mut out, value);
        }
        let mut end = 0_u64;
        for tensor in &self.tensors {
            put_text(&mut out, &tensor.name);
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            for length in &tensor.dimensions {
                out.extend(length.to_le_bytes());
            }
            out.extend(tensor.tensor_type.0.to_le_bytes());
            let start = end.next_multiple_of(self.alignment);
            out.extend(tensor.offset.unwrap_or(start).to_le_bytes());
            end = start.saturating_add(tensor_bytes(tensor));
        }
        (out, end)
    }
}

fn tensor_bytes(tensor: &PlacedTensor) -> u64 {
    let elements = tensor
        .dimensions
        .iter()
        .fold(1_u64, |product, length| product.saturating_mul(*length));
    let block_elements = tensor.tensor_type.block_elements().unwrap_or(1);
    let block_bytes = tensor.tensor_type.block_bytes().unwrap_or(0);
    (elements / block_elements).saturating_mul(block_bytes)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.extend(value.to_le_bytes()),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push((*value).into()),
        Value::String(text) => put_text(out, text),
        Value::Array(array) => {
            out.extend(array.element_type.id().to_le_bytes());
            out.extend(array.length.to_le_bytes());
            for item in &array.items {
                put_value(out, item);
            }
        }
    }
}

macro_rules! values_from {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

values_from!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64, bool => Bool, &str => String, String => String
);

impl<T: Into<Value>> From<Vec<T>> for Value {
    /// An array; an empty one is an array of 32-bit numbers.
    fn from(items: Vec<T>) -> Self {
        let items: Vec<Self> = items.into_iter().map(Into::into).collect();
        Self::Array(Array {
            element_type: items.first().map_or(ValueType::U32, Self::value_type),
            length: items.len() as u64,
            items,
        })
    }
}
