//! Ways to run a model that keeps killing its worker, each safer and slower than the one before. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use aluco_proto::{Backend, FlashAttention, KvType, LoadOptions};

/// Deaths that lie further apart have nothing to do with each other.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// So many different requests that seem to kill workers speak against the configuration rather than against them.
const CONVICTIONS_MAX: usize = 2;

/// A micro-batch with which most kernels are on well-trodden paths, in tokens.
const MICRO_BATCH_SAFE_TOKENS: u32 = 128;

/// One step down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackStep {
    /// At most so many tokens in one device step.
    MicroBatch(u32),
    /// Attention in separate operations, and a KV cache that is not quantised, as those need fused ones.
    FlashAttentionOff,
    /// A worker for another backend, for all models.
    Backend(Backend),
}

impl std::fmt::Display for FallbackStep {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MicroBatch(tokens) => write!(formatter, "micro-batch {tokens}"),
            Self::FlashAttentionOff => formatter.write_str("flash attention off"),
            Self::Backend(backend) => write!(formatter, "backend {backend}"),
        }
    }
}

/// How a model is run otherwise than configured, since its worker kept dying.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fallback {
    /// What was changed, in this order.
    pub steps: Vec<FallbackStep>,
    /// Why the last worker died before the last step.
    pub cause: String,
    /// Workers that had died of it by then.
    pub deaths: u32,
    /// When the last step was taken.
    #[serde(serialize_with = "aluco_model::rfc3339::serialize_option")]
    pub since: Option<SystemTime>,
}

/// What can be changed about a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choices<'a> {
    /// How it is configured to be loaded.
    pub(crate) options: &'a LoadOptions,
    /// What the present worker computes on.
    pub(crate) backend: Option<Backend>,
    /// Backends for which there are workers on this machine, best first.
    pub(crate) backends: &'a [Backend],
    /// The options have nothing to do with it.
    pub(crate) only_backends: bool,
}

/// Where one model stands.
#[derive(Debug, Default)]
pub(crate) struct Ladder {
    steps: Vec<FallbackStep>,
    cause: String,
    /// When the last step was taken; noted by whoever has a clock.
    pub(crate) since: Option<SystemTime>,
    /// All that were ever counted, and how many of them led to steps.
    deaths_total: u32,
    deaths_before_step: u32,
    deaths: VecDeque<Instant>,
    /// Deaths that may be one request's doing, which is found out yet.
    withheld: Vec<Instant>,
    convictions: VecDeque<Instant>,
}

impl Ladder {
    /// A worker died, from no external cause, while the model computed; gives the step that is taken after `deaths_max` of them.
    pub(crate) fn died(
        &mut self,
        at: Instant,
        cause: &str,
        deaths_max: u32,
        choices: Choices<'_>,
    ) -> Option<FallbackStep> {
        self.deaths_total += 1;
        // No request was found that had to do with these.
        for withheld in std::mem::take(&mut self.withheld) {
            note(&mut self.deaths, withheld);
        }
        note(&mut self.deaths, at);
        if self.deaths.len() < deaths_max as usize {
            return None;
        }
        self.step(cause, choices)
    }

    /// A worker died, and maybe by the doing of one request.
    pub(crate) fn withhold(&mut self, at: Instant) {
        self.deaths_total += 1;
        self.withheld.push(at);
    }

    /// One request was found to be the reason of the last deaths.
    pub(crate) fn convicted(
        &mut self,
        at: Instant,
        cause: &str,
        choices: Choices<'_>,
    ) -> Option<FallbackStep> {
        self.deaths_total += 1;
        self.deaths.clear();
        self.withheld.clear();
        note(&mut self.convictions, at);
        if self.convictions.len() < CONVICTIONS_MAX {
            return None;
        }
        self.step(cause, choices)
    }

    /// A worker died while it loaded the model; gives the step that is taken at once.
    pub(crate) fn died_at_load(
        &mut self,
        cause: &str,
        choices: Choices<'_>,
    ) -> Option<FallbackStep> {
        self.deaths_total += 1;
        self.step(cause, choices)
    }

    /// Takes the next step, if there is one.
    fn step(&mut self, cause: &str, choices: Choices<'_>) -> Option<FallbackStep> {
        let step = self.next(choices)?;
        self.steps.push(step);
        cause.clone_into(&mut self.cause);
        self.deaths_before_step = self.deaths_total;
        self.deaths.clear();
        self.withheld.clear();
        self.convictions.clear();
        Some(step)
    }

    fn next(&self, choices: Choices<'_>) -> Option<FallbackStep> {
        let is_new = |step: &FallbackStep| !self.steps.contains(step);
        let options = choices.options;
        let micro_batch = (options.micro_batch_tokens > MICRO_BATCH_SAFE_TOKENS)
            .then_some(FallbackStep::MicroBatch(MICRO_BATCH_SAFE_TOKENS));
        let attention = (options.flash_attention != FlashAttention::Off)
            .then_some(FallbackStep::FlashAttentionOff);
        let others = choices
            .backends
            .iter()
            .filter(|backend| Some(**backend) != choices.backend);
        let (cpu, devices): (Vec<Backend>, Vec<Backend>) =
            others.partition(|backend| **backend == Backend::Cpu);
        // From the CPU a device is no step down.
        let devices = devices
            .into_iter()
            .filter(|_| choices.backend != Some(Backend::Cpu));
        micro_batch
            .into_iter()
            .chain(attention)
            .chain(devices.chain(cpu).map(FallbackStep::Backend))
            .filter(|step| !choices.only_backends || matches!(step, FallbackStep::Backend(_)))
            .find(is_new)
    }

    /// Puts the steps into the options of a load.
    pub(crate) fn apply(&self, options: &mut LoadOptions) {
        for step in &self.steps {
            match step {
                FallbackStep::MicroBatch(tokens) => {
                    options.micro_batch_tokens = options.micro_batch_tokens.min(*tokens);
                }
                FallbackStep::FlashAttentionOff => {
                    options.flash_attention = FlashAttention::Off;
                    for kv_type in [&mut options.kv_type_k, &mut options.kv_type_v] {
                        if !matches!(kv_type, KvType::F32 | KvType::F16 | KvType::Bf16) {
                            *kv_type = KvType::F16;
                        }
                    }
                }
                FallbackStep::Backend(_) => {}
            }
        }
    }

    /// What to show of it.
    pub(crate) fn fallback(&self) -> Option<Fallback> {
        (!self.steps.is_empty()).then(|| Fallback {
            steps: self.steps.clone(),
            cause: self.cause.clone(),
            deaths: self.deaths_before_step,
            since: self.since,
        })
    }
}

fn note(times: &mut VecDeque<Instant>, at: Instant) {
    times.retain(|time| at.saturating_duration_since(*time) <= WINDOW);
    times.push_back(at);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(options: &LoadOptions) -> Choices<'_> {
        Choices {
            options,
            backend: Some(Backend::Vulkan),
            backends: &[Backend::Vulkan, Backend::Rocm, Backend::Cpu],
            only_backends: false,
        }
    }

    #[test]
    fn the_steps_come_in_order_and_end() {
        let options = LoadOptions {
            kv_type_k: KvType::Q8_0,
            kv_type_v: KvType::Q8_0,
            ..LoadOptions::default()
        };
        let mut ladder = Ladder::default();
        assert_eq!(ladder.fallback(), None);
        let mut steps = Vec::new();
        while let Some(step) = ladder.step("it aborts", choices(&options)) {
            steps.push(step.to_string());
        }
        assert_eq!(
            steps,
            [
                "micro-batch 128",
                "flash attention off",
                "backend rocm",
                "backend cpu"
            ]
        );
        let mut changed = options.clone();
        ladder.apply(&mut changed);
        assert_eq!(changed.micro_batch_tokens, 128);
        assert_eq!(changed.flash_attention, FlashAttention::Off);
        assert_eq!(changed.kv_type_v, KvType::F16);
        assert_eq!(ladder.fallback().unwrap().cause, "it aborts");
    }

    #[test]
    fn a_death_while_weights_are_read_leads_to_another_backend() {
        let options = LoadOptions::default();
        let choices = Choices {
            only_backends: true,
            ..choices(&options)
        };
        let step = Ladder::default().step("", choices);
        assert_eq!(step, Some(FallbackStep::Backend(Backend::Rocm)));
    }

    #[test]
    fn on_the_cpu_alone_only_options_are_left_to_change() {
        let options = LoadOptions {
            micro_batch_tokens: 64,
            ..LoadOptions::default()
        };
        let choices = Choices {
            options: &options,
            backend: Some(Backend::Cpu),
            backends: &[Backend::Vulkan, Backend::Cpu],
            only_backends: false,
        };
        let mut ladder = Ladder::default();
        let step = ladder.step("", choices);
        assert_eq!(step, Some(FallbackStep::FlashAttentionOff));
        assert_eq!(ladder.step("", choices), None);
    }

    #[test]
    fn deaths_that_one_request_may_have_caused_count_if_it_has_not() {
        let options = LoadOptions::default();
        let now = Instant::now();
        let mut ladder = Ladder::default();
        for _ in 0..2 {
            ladder.withhold(now);
        }
        let step = ladder.died(now, "x", 3, choices(&options));
        assert_eq!(step, Some(FallbackStep::MicroBatch(128)));
        for _ in 0..2 {
            ladder.withhold(now);
        }
        assert_eq!(ladder.convicted(now, "x", choices(&options)), None);
        assert_eq!(ladder.died(now, "x", 3, choices(&options)), None);
    }

    #[test]
    fn three_deaths_within_the_window_make_a_step_and_the_count_begins_again() {
        let options = LoadOptions::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut ladder = Ladder::default();
        let mut died = |seconds| {
            ladder
                .died(at(seconds), "x", 3, choices(&options))
                .is_some()
        };
        assert_eq!([0, 500, 1000].map(&mut died), [false, false, false]);
        assert_eq!([1001, 1002, 1003].map(&mut died), [true, false, false]);
        assert_eq!(ladder.fallback().unwrap().deaths, 4);
    }

    #[test]
    fn a_second_culprit_speaks_against_the_configuration() {
        let options = LoadOptions::default();
        let now = Instant::now();
        let mut ladder = Ladder::default();
        ladder.died(now, "x", 3, choices(&options));
        ladder.died(now, "x", 3, choices(&options));
        assert_eq!(ladder.convicted(now, "x", choices(&options)), None);
        assert_eq!(ladder.died(now, "x", 3, choices(&options)), None);
        assert!(ladder.convicted(now, "x", choices(&options)).is_some());
    }
}
