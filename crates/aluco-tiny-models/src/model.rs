//! A model in the making: keys, tensors and their numbers.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use aluco_model::gguf::{TensorType, Value, writer::Writer};

use crate::random::Random;

/// Tensors start at multiples of this many bytes; the format's own choice.
const ALIGNMENT: usize = 32;

pub(crate) struct Model {
    architecture: &'static str,
    header: Writer,
    data: Vec<u8>,
}

impl Model {
    pub(crate) fn new(architecture: &'static str, name: &str) -> Self {
        let header = Writer::new()
            .key("general.architecture", architecture)
            .key("general.name", name)
            .key("general.file_type", 0_u32);
        Self {
            architecture,
            header,
            data: Vec::new(),
        }
    }

    /// Adds keys that do not belong to the architecture.
    pub(crate) fn describe(mut self, keys: impl FnOnce(Writer) -> Writer) -> Self {
        self.header = keys(self.header);
        self
    }

    /// Adds a key of the architecture.
    pub(crate) fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        let key = format!("{}.{key}", self.architecture);
        self.header = self.header.key(&key, value);
        self
    }

    /// Adds a matrix, or a stack of them, that keeps the size of what it is multiplied with, times the gain. The first dimension is
    /// that of its input.
    pub(crate) fn matrix(self, name: &str, dimensions: &[u64], gain: f32) -> Self {
        let deviation = gain / (dimensions[0] as f32).sqrt();
        self.random(name, dimensions, |_| deviation)
    }

    /// Adds a tensor of random numbers; the deviation may differ from row to row.
    pub(crate) fn random(
        self,
        name: &str,
        dimensions: &[u64],
        deviation: impl Fn(u64) -> f32,
    ) -> Self {
        let mut random = Random::of(name);
        self.tensor(name, dimensions, |index| {
            random.next(deviation(index / dimensions[0]))
        })
    }

    /// Adds a tensor whose numbers are all the same.
    pub(crate) fn constant(self, name: &str, dimensions: &[u64], value: f32) -> Self {
        self.tensor(name, dimensions, |_| value)
    }

    /// Adds a tensor, number by number.
    pub(crate) fn tensor(
        mut self,
        name: &str,
        dimensions: &[u64],
        mut number: impl FnMut(u64) -> f32,
    ) -> Self {
        self.data
            .resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        for index in 0..dimensions.iter().product() {
            self.data.extend(number(index).to_le_bytes());
        }
        self.header = self.header.tensor(name, dimensions, TensorType::F32);
        self
    }

    /// Adds layers, and the key with their number.
    pub(crate) fn layers(self, count: u32, add: impl Fn(Layer) -> Layer) -> Self {
        (0..count).fold(self.key("block_count", count), |model, index| {
            add(Layer { model, index }).model
        })
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut header = self.header.header();
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&header)?;
        file.write_all(&self.data)?;
        file.flush()
    }
}

/// A model to which a layer is being added: tensors get names that start with its number.
pub(crate) struct Layer {
    model: Model,
    /// Its number, from 0.
    pub(crate) index: u32,
}

impl Layer {
    /// See [`Model::matrix`].
    pub(crate) fn matrix(self, name: &str, dimensions: &[u64], gain: f32) -> Self {
        self.add(name, |model, name| model.matrix(name, dimensions, gain))
    }

    /// Adds a tensor of random numbers.
    pub(crate) fn random(self, name: &str, dimensions: &[u64], deviation: f32) -> Self {
        self.add(name, |model, name| {
            model.random(name, dimensions, |_| deviation)
        })
    }

    /// See [`Model::constant`].
    pub(crate) fn constant(self, name: &str, dimensions: &[u64], value: f32) -> Self {
        self.add(name, |model, name| model.constant(name, dimensions, value))
    }

    /// See [`Model::tensor`].
    pub(crate) fn tensor(
        self,
        name: &str,
        dimensions: &[u64],
        number: impl FnMut(u64) -> f32,
    ) -> Self {
        self.add(name, |model, name| model.tensor(name, dimensions, number))
    }

    fn add(self, name: &str, tensor: impl FnOnce(Model, &str) -> Model) -> Self {
        let name = format!("blk.{}.{name}", self.index);
        Self {
            model: tensor(self.model, &name),
            index: self.index,
        }
    }
}
