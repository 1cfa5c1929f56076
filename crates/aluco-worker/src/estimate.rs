//! What a model would take, found out by llama.cpp itself: it lays out tensors, cells and the largest graph as in a load, and leaves
//! out the memory for them. Takes as long as reading the header and the vocabulary.

use std::{
    io::{BufRead, Write},
    path::Path,
};

use aluco_proto::{DeviceMemory, Event, Failure, LoadOptions, RequestId};

use crate::{
    ffi::{Context, Engine, Model, ModelOptions},
    loading::checked_context_options,
    outbox::{Outbox, Pulse},
    prompt,
};

/// Finds out and sends the answer.
pub fn run(
    engine: Engine,
    request: RequestId,
    path: &Path,
    options: &LoadOptions,
    outbox: &Outbox,
    pulse: &Pulse,
) {
    let _working = pulse.work();
    match memory(engine, path, options) {
        Ok(memory) => outbox.send(&Event::Estimated { request, memory }),
        Err(failure) => outbox.failed(request, failure),
    }
}

/// What a load with these options would take, by device.
pub fn memory(
    engine: Engine,
    path: &Path,
    options: &LoadOptions,
) -> Result<Vec<DeviceMemory>, Failure> {
    let model_options = ModelOptions {
        gpu_layers: options.gpu_layers,
        weight_loading: options.weight_loading,
    };
    let model =
        Model::outline(engine, path, &model_options).map_err(|error| prompt::failure(&error))?;
    let wanted = checked_context_options(&model, options)?;
    let context = Context::new(&model, &wanted).map_err(|error| prompt::failure(&error))?;
    Ok(context.memory_breakdown())
}

/// Answers every line of load options with a line of memory by device, as JSON.
pub fn answer_lines(engine: Engine, path: &Path, questions: impl BufRead) -> anyhow::Result<()> {
    let mut answers = std::io::stdout().lock();
    for question in questions.lines() {
        let options: LoadOptions = serde_json::from_str(&question?)?;
        serde_json::to_writer(&mut answers, &memory(engine, path, &options)?)?;
        writeln!(answers)?;
        answers.flush()?;
    }
    Ok(())
}
