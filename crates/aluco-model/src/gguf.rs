//! GGUF, the file format of llama.cpp's models: a header of keys and values, a list of tensors, then the tensors' bytes.
//!
//! Only the header is read here, with every length that the file claims checked against [`Limits`] before it is believed, so that a
//! damaged or hostile file costs an error message and not the machine. [`Header::read`] takes any byte stream, such as the first
//! megabytes of a download; [`GgufFile::open`] takes a path, finds the other parts of a split model, and checks that all
//! bytes are there. What the header means is the concern of [`crate::ModelInfo`].
//!
//! Versions 2 and 3 in little-endian form are read, the only ones in use. Format and names are those of llama.cpp's `gguf.h`.

mod cursor;
mod error;
mod file;
mod file_type;
mod header;
mod limits;
mod metadata;
mod tensor;
mod tensor_type;
#[cfg(test)]
mod tests;
mod value;
#[cfg(any(test, feature = "test-support"))]
pub mod writer;

pub use error::GgufError;
pub(crate) use error::Grouped;
pub use file::{GgufFile, Part};
pub use file_type::FileType;
pub use header::Header;
pub use limits::Limits;
pub use metadata::Metadata;
pub use tensor::TensorInfo;
pub use tensor_type::TensorType;
pub use value::{Array, Value, ValueType};
