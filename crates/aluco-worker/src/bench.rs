//! Measuring prefill and decode as llama.cpp's `llama-bench` does, so that figures can be compared: the same warm-up, the same random
//! tokens, a cleared cache before each repetition, the clock around the computation alone.

use std::{
    path::Path,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use aluco_proto::{
    BenchReport, BenchSpec, BenchTest, BenchTestResult, Event, Failure, ModelHandle, RequestId,
    Token,
};

use crate::{
    ffi::{Batch, Context, Decoded, Engine, EngineError, Model, ModelOptions},
    loading::{context_options, describe},
    outbox::{Outbox, Pulse},
    prompt,
};

/// Longest test: no model was trained for more.
const TOKENS_MAX: u64 = 1 << 24;

/// Measures and sends progress and the report.
pub fn run(
    engine: Engine,
    request: RequestId,
    path: &Path,
    spec: &BenchSpec,
    outbox: &Outbox,
    pulse: &Pulse,
) {
    let _working = pulse.work();
    match measure(engine, path, spec, |done, total| {
        outbox.send(&Event::BenchProgress {
            request,
            done,
            total,
        });
    }) {
        Ok(report) => outbox.send(&Event::Bench {
            request,
            report: Box::new(report),
        }),
        Err(failure) => outbox.failed(request, failure),
    }
}

/// Measures; `progress` hears repetitions done and in all.
pub fn measure(
    engine: Engine,
    path: &Path,
    spec: &BenchSpec,
    mut progress: impl FnMut(u32, u32),
) -> Result<BenchReport, Failure> {
    let failed = |error: EngineError| prompt::failure(&error);
    if spec.tests.is_empty() || spec.repetitions == 0 {
        return Err(prompt::invalid("there is nothing to measure".to_owned()));
    }
    for test in &spec.tests {
        let tokens = [test.prompt_tokens, test.generated_tokens, test.depth_tokens];
        let tokens: u64 = tokens.into_iter().map(u64::from).sum();
        if tokens > TOKENS_MAX {
            return Err(prompt::invalid(format!(
                "a test of {tokens} tokens is over the limit of {TOKENS_MAX}"
            )));
        }
    }
    let began = Instant::now();
    let options = ModelOptions {
        gpu_layers: spec.options.gpu_layers,
        weight_loading: spec.options.weight_loading,
    };
    let model = Model::load(engine, path, &options, |_| true).map_err(failed)?;
    let mut info = None;
    let mut tests = Vec::with_capacity(spec.tests.len());
    let total = spec.repetitions.saturating_mul(spec.tests.len() as u32);
    for test in &spec.tests {
        let mut context_options = context_options(&model, &spec.options);
        context_options.context_tokens =
            test.prompt_tokens + test.generated_tokens + test.depth_tokens;
        context_options.sequences_max = 1;
        if context_options.context_tokens == 0 {
            return Err(prompt::invalid(
                "a test needs tokens to prefill or to generate".to_owned(),
            ));
        }
        let context = Context::new(&model, &context_options).map_err(failed)?;
        let info = info.get_or_insert_with(|| {
            describe(ModelHandle(0), &model, &context, &spec.options, began)
        });
        info.context_tokens = info.context_tokens.max(context.context_tokens());
        let mut run = Run::new(context, test);
        if spec.warm_up {
            run.warm_up(test).map_err(failed)?;
        }
        let started_at_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut samples_ns = Vec::with_capacity(spec.repetitions as usize);
        for _ in 0..spec.repetitions {
            samples_ns.push(run.repetition(test).map_err(failed)?);
            progress(
                (tests.len() as u32) * spec.repetitions + samples_ns.len() as u32,
                total,
            );
        }
        tests.push(BenchTestResult {
            test: *test,
            started_at_s,
            samples_ns,
        });
    }
    let devices = engine.devices();
    let describe_devices = |gpu: bool| {
        let names: Vec<&str> = devices
            .iter()
            .filter(|device| device.is_gpu == gpu)
            .map(|device| device.description.as_str())
            .collect();
        names.join(", ")
    };
    let mut backends: Vec<&str> = devices
        .iter()
        .map(|device| device.backend.as_str())
        .collect();
    backends.dedup();
    if backends.len() > 1 {
        // As llama-bench: the CPU is named only where it is alone.
        backends.retain(|backend| *backend != "CPU");
    }
    let build = engine.build();
    Ok(BenchReport {
        model: info.expect("there is at least one test"),
        build_number: build.number,
        build_commit: build.commit,
        backends: backends.join(","),
        cpu_info: describe_devices(false),
        gpu_info: describe_devices(true),
        tests,
    })
}

struct Run {
    context: Context,
    batch: Batch,
    random: u64,
    /// Tokens that lie in the cache before the clock starts, the same in every repetition.
    depth: Vec<Token>,
}

impl Run {
    fn new(context: Context, test: &BenchTest) -> Self {
        let mut run = Self {
            context,
            batch: Batch::default(),
            random: 0x2545_f491_4f6c_dd1d,
            depth: Vec::new(),
        };
        run.depth = run.random_tokens(test.depth_tokens, true);
        run
    }

    /// Both parts once, as llama-bench does: the whole prompt, and one generated token.
    fn warm_up(&mut self, test: &BenchTest) -> Result<(), EngineError> {
        self.context.clear();
        self.prefill(test.prompt_tokens, 0)?;
        self.context.clear();
        self.decode(test.generated_tokens.min(1), 0)
    }

    /// Wall time of one repetition, in nanoseconds.
    fn repetition(&mut self, test: &BenchTest) -> Result<u64, EngineError> {
        self.context.clear();
        let depth = std::mem::take(&mut self.depth);
        self.compute(&depth, 0)?;
        self.depth = depth;
        let begin = Instant::now();
        self.prefill(test.prompt_tokens, test.depth_tokens)?;
        self.decode(
            test.generated_tokens,
            test.depth_tokens + test.prompt_tokens,
        )?;
        Ok(begin.elapsed().as_nanos() as u64)
    }

    fn prefill(&mut self, count: u32, position: u32) -> Result<(), EngineError> {
        let tokens = self.random_tokens(count, position == 0);
        self.compute(&tokens, position)
    }

    fn decode(&mut self, count: u32, position: u32) -> Result<(), EngineError> {
        let mut token = self.random_tokens(1, true)[0];
        for offset in 0..count {
            self.batch.clear();
            self.batch.push(token, position + offset, 0, true);
            self.flush()?;
            token = self.random_tokens(1, false)[0];
        }
        Ok(())
    }

    /// Computes tokens in batches; the logits of each batch's last token are made, as a prompt's would be.
    fn compute(&mut self, tokens: &[Token], position: u32) -> Result<(), EngineError> {
        let mut position = position;
        for chunk in tokens.chunks(self.context.batch_tokens() as usize) {
            self.batch.clear();
            for (index, token) in chunk.iter().enumerate() {
                self.batch
                    .push(*token, position, 0, index + 1 == chunk.len());
                position += 1;
            }
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        match self.context.decode(&mut self.batch)? {
            Decoded::Done => Ok(()),
            Decoded::NoCells => Err(EngineError::Failed {
                call: "llama_decode",
                reason: "the cells made for this test do not suffice".to_owned(),
            }),
        }
    }

    /// Random tokens, with the model's begin token first if `begins`.
    fn random_tokens(&mut self, count: u32, begins: bool) -> Vec<Token> {
        let vocabulary = u64::from(self.context.model().vocabulary().max(1));
        let mut tokens: Vec<Token> = (0..count)
            .map(|_| {
                // xorshift64: any tokens will do, the same ones each time are better.
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                (self.random % vocabulary) as Token
            })
            .collect();
        if let (true, Some(first), Some(begin)) = (
            begins,
            tokens.first_mut(),
            self.context.model().begin_token(),
        ) {
            *first = begin;
        }
        tokens
    }
}
