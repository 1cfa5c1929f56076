//! Flags of `aluco bench`.

use clap::{Args, ValueEnum};

use super::{Measuring, Overrides};

#[derive(Debug, Args)]
#[command(after_help = "\
Flags that take a list accept several values, as in `-p 512,2048`, and ranges,
as in `-d 0-8192+4096` or `-p 128-1024*2`.
llama-bench's short flags are understood: -ub, -ctk, -ctv, -fa, -ngl, -pg.

Examples:
  aluco bench smollm2:135m
  aluco bench smollm2:135m -p 512,4096 -n 0 -fa 0,1 -r 3
  aluco bench smollm2:135m --json > result.json")]
pub(crate) struct BenchArgs {
    /// Model: a name, a Hugging Face repository, or a file
    pub(crate) model: String,
    /// Tokens of a prompt to read (prefill)
    #[arg(short = 'p', long, value_name = "LIST", default_value = "512")]
    pub(crate) n_prompt: Vec<String>,
    /// Tokens of an answer to write (decode)
    #[arg(short = 'n', long, value_name = "LIST", default_value = "128")]
    pub(crate) n_gen: Vec<String>,
    /// Both in one test, as in 512,128 [llama-bench: -pg]
    #[arg(long, value_name = "PP,TG")]
    pub(crate) prompt_gen: Vec<String>,
    /// Tokens that are in the context before the clock starts
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0")]
    pub(crate) n_depth: Vec<String>,
    /// Threads that compute on the CPU; by default the worker decides
    #[arg(short = 't', long, value_name = "LIST")]
    pub(crate) threads: Vec<String>,
    /// Most tokens that are handed to the model at once
    #[arg(
        short = 'b',
        long,
        alias = "batch",
        value_name = "LIST",
        default_value = "2048"
    )]
    pub(crate) batch_size: Vec<String>,
    /// Most tokens of these that the device computes in one step [llama-bench: -ub]
    #[arg(
        long,
        alias = "micro-batch",
        value_name = "LIST",
        default_value = "512"
    )]
    pub(crate) ubatch_size: Vec<String>,
    /// How exactly the keys of the context are kept [llama-bench: -ctk]
    #[arg(
        long,
        alias = "kv-type-k",
        value_name = "LIST",
        default_value = "f16",
        value_delimiter = ','
    )]
    pub(crate) cache_type_k: Vec<String>,
    /// How exactly the values of the context are kept [llama-bench: -ctv]
    #[arg(
        long,
        alias = "kv-type-v",
        value_name = "LIST",
        default_value = "f16",
        value_delimiter = ','
    )]
    pub(crate) cache_type_v: Vec<String>,
    /// Attention in one pass (flash attention): auto, 0 or 1 [llama-bench: -fa]
    #[arg(
        long,
        alias = "flash-attention",
        value_name = "LIST",
        default_value = "auto",
        value_delimiter = ','
    )]
    pub(crate) flash_attn: Vec<String>,
    /// Layers on the GPU; by default all [llama-bench: -ngl]
    #[arg(long, alias = "gpu-layers", value_name = "LIST")]
    pub(crate) n_gpu_layers: Vec<String>,
    /// Measured repetitions of each test
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repetitions: u32,
    /// No unmeasured run before each test
    #[arg(long)]
    pub(crate) no_warmup: bool,
    /// Form of the result
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: BenchFormat,
    /// The same as --output json
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Measuring>,
}

/// Forms of a bench's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchFormat {
    /// A table that fits a terminal
    Table,
    /// One JSON array
    Json,
    /// One JSON object a line
    Jsonl,
    /// Comma-separated values
    Csv,
    /// llama-bench's markdown table
    Md,
}
