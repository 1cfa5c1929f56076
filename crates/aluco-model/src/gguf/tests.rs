//! Tests of the reader as a whole, by theme.

mod hostile;
mod split;
mod valid;

use std::io::{self, Read};

use super::{GgufError, Header, Limits, TensorType, writer::Writer};

fn read(bytes: &[u8]) -> Result<Header, GgufError> {
    Header::read(bytes, &Limits::default())
}

/// A file with a key of every type and three tensors.
fn small() -> Writer {
    Writer::new()
        .key("general.architecture", "llama")
        .key("test.u8", 200_u8)
        .key("test.i8", -100_i8)
        .key("test.u16", 60_000_u16)
        .key("test.i16", -30_000_i16)
        .key("test.u32", 4_000_000_000_u32)
        .key("test.i32", -2_000_000_000_i32)
        .key("test.u64", u64::MAX)
        .key("test.i64", i64::MIN)
        .key("test.f32", 0.5_f32)
        .key("test.f64", 0.25_f64)
        .key("test.bool", true)
        .key("test.numbers", vec![1_u32, 2, 3])
        .key("test.texts", vec!["one", "two"])
        .key("test.nested", vec![vec![1_u8, 2], vec![3]])
        .tensor("first", &[32, 2], TensorType::Q8_0)
        .tensor("second", &[3], TensorType::F32)
        .tensor("third", &[64, 1, 2], TensorType::Q4_1)
}

/// A stream that hands out one byte at a time and is interrupted before each.
struct Dripping<'a> {
    bytes: &'a [u8],
    interrupted: bool,
}

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(1);
        self.bytes.read(&mut buffer[..length])
    }
}
