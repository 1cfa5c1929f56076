//! A quantised model once more, with all its numbers in full precision.
//!
//! What llama.cpp multiplies with quantised weights it quantises as well, and in blocks that depend on what else is computed at once. So a text
//! depends on its neighbours, and a test that wants the same text again needs another model: this one, which is as clever as the
//! quantised one, four to eight times as large, and the same whatever runs beside it (but for the last bits).

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

use aluco_model::gguf::{Header, Limits, TensorInfo, TensorType, Value, writer::Writer};

use crate::quantised::{Dequantise, dequantise};

/// Tensors start at multiples of this many bytes; the format's own choice.
const ALIGNMENT: u64 = 32;

/// The number of a file type by which GGUF means that all is F32.
const FILE_TYPE_F32: u32 = 0;

/// The same model in full precision, in a file beside it whose name ends in `.F32.gguf`. It is written at the first call, and again only if it is not
/// as long as it has to be, does not begin as it has to, or is older than the model.
///
/// # Errors
/// The model cannot be read, has tensors of a type that is not known here, or the file cannot be written.
pub fn in_full_precision(model: &Path) -> io::Result<PathBuf> {
    let path = model.with_extension("F32.gguf");
    let mut source = File::open(model)?;
    let header = Header::read(&mut source, &Limits::default().keeping_arrays())
        .map_err(|error| wrong(model, &error.to_string()))?;
    let written = written_header(&header);
    if is_current(&path, &written, &header, model) {
        return Ok(path);
    }
    let folder = model.parent().filter(|it| *it != Path::new(""));
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    let mut target = BufWriter::new(file.as_file_mut());
    target.write_all(&written)?;
    for tensor in &header.tensors {
        let dequantise = dequantise(tensor.tensor_type()).ok_or_else(|| {
            let (name, of) = (tensor.name(), tensor.tensor_type());
            wrong(model, &format!("tensor {name} is {of}, which is unknown"))
        })?;
        source.seek(SeekFrom::Start(header.data_offset + tensor.offset()))?;
        copy_tensor(&mut source, &mut target, tensor, dequantise)?;
    }
    target.flush()?;
    drop(target);
    file.persist(&path)?;
    Ok(path)
}

fn wrong(model: &Path, problem: &str) -> io::Error {
    io::Error::other(format!("{}: {problem}", model.display()))
}

/// What the file begins with, up to the first tensor's numbers.
fn written_header(header: &Header) -> Vec<u8> {
    let mut writer = Writer::new();
    for (key, value) in header.metadata.iter() {
        writer = match key {
            "general.file_type" => writer.key(key, FILE_TYPE_F32),
            // They are of the other file.
            "general.alignment" | "general.quantization_version" => writer,
            _ => writer.key(key, Value::clone(value)),
        };
    }
    for tensor in &header.tensors {
        writer = writer.tensor(tensor.name(), tensor.dimensions(), TensorType::F32);
    }
    let mut bytes = writer.header();
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    bytes
}

fn is_current(path: &Path, written: &[u8], header: &Header, model: &Path) -> bool {
    let bytes_of = |tensor: &TensorInfo| (tensor.elements() * 4).next_multiple_of(ALIGNMENT);
    let bytes = written.len() as u64 + header.tensors.iter().map(bytes_of).sum::<u64>();
    let is_current = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut beginning = vec![0; written.len()];
        file.read_exact(&mut beginning)?;
        Ok(metadata.len() == bytes
            && beginning == written
            && metadata.modified()? >= fs::metadata(model)?.modified()?)
    };
    is_current().unwrap_or(false)
}

/// Writes the numbers of a tensor that begins where the source stands.
fn copy_tensor(
    source: &mut File,
    target: &mut impl Write,
    tensor: &TensorInfo,
    dequantise: Dequantise,
) -> io::Result<()> {
    let tensor_type = tensor.tensor_type();
    let (Some(elements), Some(bytes)) = (tensor_type.block_elements(), tensor_type.block_bytes())
    else {
        unreachable!("a type that can be dequantised has blocks");
    };
    let mut source = BufReader::with_capacity(1 << 20, source);
    let mut block = vec![0; bytes as usize];
    let mut numbers = Vec::with_capacity(elements as usize);
    for _ in 0..tensor.elements() / elements {
        source.read_exact(&mut block)?;
        numbers.clear();
        dequantise(&block, &mut numbers);
        for number in &numbers {
            target.write_all(&number.to_le_bytes())?;
        }
    }
    let end = tensor.elements() * 4;
    let padding = end.next_multiple_of(ALIGNMENT) - end;
    target.write_all(&[0; ALIGNMENT as usize][..padding as usize])
}
