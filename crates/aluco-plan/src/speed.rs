//! Speed before anything is loaded: how fast a model will decode, prefill and load on a machine that was measured.
//!
//! [`Work`] is what a token and a load cost, from the header; [`Rates`] is what the machine does, from `aluco machine bench`. Decoding one
//! stream reads every active weight and every key and value once for each token, so memory bandwidth bounds it; prefill multiplies, so
//! the matrix rate does. How much of the rates llama.cpp makes use of depends on kernels, drivers and shapes, and is no single number:
//! `efficiency` holds the least and the most that was seen, with the sources, and a prediction is the band between them.

mod efficiency;
mod work;

use std::fmt;

use aluco_proto::{Backend, LoadOptions};
use serde::{Deserialize, Serialize};

use crate::Bytes;
use efficiency::{Efficiency, Share};
pub use work::Work;

/// Bytes per second, of memory or of a disk.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BytesPerSecond(pub f64);

/// Floating-point operations per second; a multiply-add is two.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlopsPerSecond(pub f64);

/// Tokens per second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokensPerSecond(pub f64);

/// A time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

/// Where a figure will lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Band<T> {
    /// The least that is expected.
    pub low: T,
    /// The most that is expected.
    pub high: T,
}

/// A figure that was predicted, not measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Predicted<T> {
    /// Where it will lie.
    pub band: Band<T>,
}

impl<T: PartialOrd> Predicted<T> {
    fn between(low: T, high: T) -> Self {
        Self {
            band: Band { low, high },
        }
    }

    /// True if a figure lies in the band.
    pub fn holds(&self, figure: &T) -> bool {
        self.band.low <= *figure && *figure <= self.band.high
    }
}

/// What a machine does, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// On what the model would be computed.
    pub backend: Backend,
    /// How fast that reads memory.
    pub memory: Option<BytesPerSecond>,
    /// Its products of matrices, f16 by f32.
    pub matrix: Option<FlopsPerSecond>,
    /// How fast files are read that are not in memory.
    pub disk: Option<BytesPerSecond>,
}

/// How fast a model will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeedPlan {
    /// Tokens decoded in one stream that has just begun.
    pub decode: Option<Predicted<TokensPerSecond>>,
    /// The same with a full context. `None`, too, for architectures with caches whose bytes are not known.
    pub decode_full: Option<Predicted<TokensPerSecond>>,
    /// Tokens in that context.
    pub full_tokens: u64,
    /// Tokens of a prompt that is computed, at its begin: it slows down with depth.
    pub prefill: Option<Predicted<TokensPerSecond>>,
    /// Time of a load, with nothing of the file in memory.
    pub load: Option<Predicted<Seconds>>,
    /// Why decoding and prefill are not predicted though the machine was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpredictable: Option<String>,
}

impl SpeedPlan {
    /// How fast a model will be with a context of so many tokens.
    pub fn of(work: &Work, options: &LoadOptions, rates: &Rates, context_tokens: u64) -> Self {
        let load = rates.disk.map(|disk| load(work.file, disk));
        let mut plan = Self {
            decode: None,
            decode_full: None,
            full_tokens: context_tokens,
            prefill: None,
            load,
            unpredictable: None,
        };
        if is_split(work, options, rates.backend) {
            plan.unpredictable =
                Some("its layers would be split between the CPU and the GPU".to_owned());
            return plan;
        }
        let decode = |depth| decode(work, options, rates, depth);
        plan.decode = decode(0);
        plan.decode_full = decode(context_tokens).filter(|_| !work.has_unknown_caches);
        plan.prefill = prefill(work, rates);
        plan
    }
}

/// The speed of decoding that no machine with this memory exceeds.
pub fn decode_limit(work: &Work, memory: BytesPerSecond) -> TokensPerSecond {
    let bytes = work.dense.bytes + work.experts.bytes + work.state;
    TokensPerSecond(memory.0 / as_f64(bytes).max(1.0))
}

/// True if some layers are computed by the CPU and some by the GPU.
fn is_split(work: &Work, options: &LoadOptions, backend: Backend) -> bool {
    backend != Backend::Cpu
        && options
            .gpu_layers
            .is_some_and(|layers| u64::from(layers) <= work.layers)
}

fn decode(
    work: &Work,
    options: &LoadOptions,
    rates: &Rates,
    depth: u64,
) -> Option<Predicted<TokensPerSecond>> {
    let memory = rates.memory.filter(|rate| rate.0 > 0.0)?;
    let efficiency = Efficiency::of(rates.backend);
    let cells = work.cells(options, depth);
    let reading = |share: fn(&Share) -> f64| {
        let at = |bytes: Bytes, of: &Share| as_f64(bytes) / (memory.0 * share(of));
        at(work.dense.bytes, &efficiency.dense)
            + at(work.experts.bytes, &efficiency.experts)
            + at(work.state + cells.plain, &efficiency.cells)
            + at(cells.compressed, &efficiency.compressed_cells)
    };
    let (mut fastest, mut slowest) = (reading(|share| share.most), reading(|share| share.least));
    slowest += efficiency.layer_overhead.0 * work.layers as f64;
    if rates.backend == Backend::Cpu {
        // Few cores unpack and multiply more slowly than they read.
        let parameters = work
            .dense
            .parameters
            .saturating_add(work.experts.parameters);
        let computing = multiplying(parameters, rates, &efficiency.decode_matrix)?;
        fastest = fastest.max(computing.low);
        slowest += computing.high;
    }
    per_second(fastest, slowest)
}

fn prefill(work: &Work, rates: &Rates) -> Option<Predicted<TokensPerSecond>> {
    let efficiency = Efficiency::of(rates.backend);
    // The output is needed for one token of a prompt only.
    let dense = work.dense.parameters.saturating_sub(work.output.parameters);
    let dense = multiplying(dense, rates, &efficiency.prefill)?;
    let experts = multiplying(work.experts.parameters, rates, &efficiency.prefill_experts)?;
    per_second(dense.low + experts.low, dense.high + experts.high)
}

/// Seconds that the multiplications of a token by so many parameters take.
fn multiplying(parameters: u64, rates: &Rates, share: &Share) -> Option<Band<f64>> {
    let matrix = rates.matrix.filter(|rate| rate.0 > 0.0)?;
    let seconds = 2.0 * parameters as f64 / matrix.0;
    Some(Band {
        low: seconds / share.most,
        high: seconds / share.least,
    })
}

fn load(file: Bytes, disk: BytesPerSecond) -> Predicted<Seconds> {
    let seconds = as_f64(file) / disk.0.max(1.0);
    let share = &efficiency::LOAD;
    let high = seconds / share.least + efficiency::LOAD_OVERHEAD.0;
    Predicted::between(Seconds(seconds / share.most), Seconds(high))
}

fn per_second(fastest: f64, slowest: f64) -> Option<Predicted<TokensPerSecond>> {
    let is_sound = fastest > 0.0 && slowest.is_finite() && slowest >= fastest;
    is_sound.then(|| {
        Predicted::between(
            TokensPerSecond(1.0 / slowest),
            TokensPerSecond(1.0 / fastest),
        )
    })
}

fn as_f64(bytes: Bytes) -> f64 {
    bytes.0 as f64
}

/// `21 to 27`, without a unit, and with no more digits than a prediction is good for.
impl<T: Copy + Into<f64>> fmt::Display for Predicted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (
            rounded(self.band.low.into()),
            rounded(self.band.high.into()),
        );
        if low == high {
            f.write_str(&low)
        } else {
            write!(f, "{low} to {high}")
        }
    }
}

impl From<TokensPerSecond> for f64 {
    fn from(speed: TokensPerSecond) -> Self {
        speed.0
    }
}

impl From<Seconds> for f64 {
    fn from(time: Seconds) -> Self {
        time.0
    }
}

/// Two digits, all of those before the point, and commas between thousands.
fn rounded(figure: f64) -> String {
    if figure < 9.95 {
        return format!("{figure:.1}");
    }
    let step = 10_f64.powi((figure.log10().floor() as i32 - 1).max(0));
    let whole = ((figure / step).round() * step) as u64;
    match whole / 1000 {
        0 => whole.to_string(),
        thousands => format!("{thousands},{:03}", whole % 1000),
    }
}

#[cfg(test)]
mod tests;
