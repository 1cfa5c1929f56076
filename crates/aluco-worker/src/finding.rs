//! What the memory probe found, noted beside the stored prompts for the next load of the same model.
//!
//! A probe computes 41 tokens in four steps, all of them before the first stream goes on after a crash. Where other programs keep the cores busy that was
//! four fifths of the load of a small model (135M Q4_1, two cores, a dozen busy programs: 2.0 s with a probe, 0.4 s without one).
//!
//! The note is under the model's fingerprint, and says on what else the outcome of a probe depends. It is believed only word for word; whatever is
//! different means another probe. Only the best outcome is noted: a lesser one may have had a cause that is gone. Only the CPU's outcome is noted: what
//! a GPU computes depends on its driver too, which is in no fingerprint, and a GPU makes short work of a probe.

use std::{fs, time::SystemTime};

use aluco_proto::{Backend, LoadOptions};

use crate::{
    ffi::Context,
    hello,
    memory::{Archive, MemoryClass},
    threads,
};

/// What is noted of a model whose memory can be kept as well as is hoped for; `None` if that is not to be noted.
pub(crate) fn best(context: &Context, options: &LoadOptions) -> Option<(MemoryClass, String)> {
    let class = Archive::best_class(context)?;
    let is_told = hello::BACKEND == Backend::Cpu;
    let text = is_told.then(|| text(class, context, options)).flatten()?;
    Some((class, text))
}

fn text(class: MemoryClass, context: &Context, options: &LoadOptions) -> Option<String> {
    let threads = options.threads.unwrap_or_else(threads::default_threads);
    Some(format!(
        "memory: {}\nworker: {}\nvariables: {}\ncells: {}\nsequences: {}\nbatch: {}\nmicro-batch: {}\nthreads: {threads}\n",
        class.name(),
        this_program()?,
        variables().join(" "),
        context.context_tokens(),
        context.sequences_max(),
        context.batch_tokens(),
        context.micro_batch_tokens(),
    ))
}

/// Length and time of the file that this process was started from, the engine in it: another build has others. Its name says nothing.
fn this_program() -> Option<String> {
    let file = fs::metadata("/proc/self/exe").ok()?;
    let since_1970 = file.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH);
    let nanos = since_1970.ok()?.as_nanos();
    Some(format!("{} bytes of {nanos}", file.len()))
}

/// What is said to the engine past all options.
fn variables() -> Vec<String> {
    let is_engines = |name: &str| ["GGML_", "LLAMA_"].iter().any(|it| name.starts_with(it));
    let mut variables: Vec<String> = std::env::vars_os()
        .map(|(name, value)| {
            let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
            (text(name), text(value))
        })
        .filter(|(name, _)| is_engines(name))
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    variables.sort_unstable();
    variables
}
