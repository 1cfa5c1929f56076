//! Results under llama-bench's names, so that its viewers read them.

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use aluco_proto::{BenchReport, BenchTest, BenchTestResult, FlashAttention, KvType};
use serde::Serialize;
use serde_json::Value;

use crate::render::{Column, Table};

/// One test's result. Names and units are llama-bench's; `stddev` is that of a sample (n − 1).
#[derive(Debug, Serialize)]
pub(super) struct Record {
    build_commit: String,
    build_number: i32,
    cpu_info: String,
    gpu_info: String,
    backends: String,
    model_filename: String,
    model_type: String,
    model_size: u64,
    model_n_params: u64,
    n_batch: u32,
    n_ubatch: u32,
    n_threads: u32,
    type_k: &'static str,
    type_v: &'static str,
    n_gpu_layers: i64,
    flash_attn: i8,
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
    test_time: String,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
}

impl Record {
    pub(super) fn new(
        report: &BenchReport,
        result: &BenchTestResult,
        file: &Path,
        (kv_type_k, kv_type_v): (KvType, KvType),
        flash_attention: FlashAttention,
        gpu_layers: Option<u32>,
    ) -> Self {
        let test = &result.test;
        let tokens = f64::from(test.prompt_tokens) + f64::from(test.generated_tokens);
        let samples_ts: Vec<f64> = result
            .samples_ns
            .iter()
            .map(|ns| tokens * 1e9 / *ns as f64)
            .collect();
        let times: Vec<f64> = result.samples_ns.iter().map(|ns| *ns as f64).collect();
        let started = UNIX_EPOCH + Duration::from_secs(result.started_at_s);
        Self {
            build_commit: report.build_commit.clone(),
            build_number: report.build_number,
            cpu_info: report.cpu_info.clone(),
            gpu_info: report.gpu_info.clone(),
            backends: report.backends.clone(),
            model_filename: file.display().to_string(),
            model_type: report.model.description.clone(),
            model_size: report.model.weights_bytes,
            model_n_params: report.model.parameters,
            n_batch: report.model.batch_tokens,
            n_ubatch: report.model.micro_batch_tokens,
            n_threads: report.model.threads,
            type_k: kv_type_k.name(),
            type_v: kv_type_v.name(),
            n_gpu_layers: gpu_layers.map_or(-1, i64::from),
            flash_attn: match flash_attention {
                FlashAttention::Auto => -1,
                FlashAttention::Off => 0,
                FlashAttention::On => 1,
            },
            n_prompt: test.prompt_tokens,
            n_gen: test.generated_tokens,
            n_depth: test.depth_tokens,
            test_time: humantime::format_rfc3339_seconds(started).to_string(),
            avg_ns: mean(&times) as u64,
            stddev_ns: deviation(&times) as u64,
            avg_ts: mean(&samples_ts),
            stddev_ts: deviation(&samples_ts),
            samples_ns: result.samples_ns.clone(),
            samples_ts,
        }
    }

    fn test(&self) -> String {
        name(&BenchTest {
            prompt_tokens: self.n_prompt,
            generated_tokens: self.n_gen,
            depth_tokens: self.n_depth,
        })
    }

    fn speed(&self) -> String {
        format!("{:.2} ± {:.2}", self.avg_ts, self.stddev_ts)
    }

    fn size(&self) -> String {
        let mib = self.model_size as f64 / 1024.0 / 1024.0;
        if mib < 1024.0 {
            format!("{mib:.2} MiB")
        } else {
            format!("{:.2} GiB", mib / 1024.0)
        }
    }

    fn parameters(&self) -> String {
        let millions = self.model_n_params as f64 / 1e6;
        if millions < 1000.0 {
            format!("{millions:.2} M")
        } else {
            format!("{:.2} B", millions / 1000.0)
        }
    }
}

fn mean(samples: &[f64]) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    samples.iter().sum::<f64>() / samples.len() as f64
}

fn deviation(samples: &[f64]) -> f64 {
    if samples.len() < 2 {
        return 0.0;
    }
    let mean = mean(samples);
    let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
    (squares / (samples.len() - 1) as f64).sqrt()
}

/// `pp512`, `tg128`, `pp512+tg128`, with ` @ d4096` at a depth.
fn name(test: &BenchTest) -> String {
    let mut name = match (test.prompt_tokens, test.generated_tokens) {
        (prompt, 0) => format!("pp{prompt}"),
        (0, generated) => format!("tg{generated}"),
        (prompt, generated) => format!("pp{prompt}+tg{generated}"),
    };
    if test.depth_tokens > 0 {
        write!(name, " @ d{}", test.depth_tokens).expect("a string takes everything");
    }
    name
}

/// What differs between the records, beside the test: nobody needs a column that says the same in each row.
fn varying(records: &[Record]) -> Vec<Vary> {
    let all: [Vary; 6] = [
        ("ngl", |it| it.n_gpu_layers.to_string()),
        ("fa", |it| it.flash_attn.to_string()),
        ("n_batch", |it| it.n_batch.to_string()),
        ("n_ubatch", |it| it.n_ubatch.to_string()),
        ("type_k", |it| it.type_k.to_owned()),
        ("type_v", |it| it.type_v.to_owned()),
    ];
    let differs = |(_, value): &Vary| records.windows(2).any(|it| value(&it[0]) != value(&it[1]));
    all.into_iter().filter(differs).collect()
}

type Vary = (&'static str, fn(&Record) -> String);

pub(super) fn table(records: &[Record]) -> Table {
    let varying = varying(records);
    let mut columns = vec![
        Column::long_words("MODEL"),
        Column::numbers("SIZE"),
        Column::numbers("PARAMETERS"),
        Column::words("BACKEND"),
        Column::numbers("THREADS"),
    ];
    columns.extend(varying.iter().map(|(title, _)| Column::numbers(title)));
    columns.extend([Column::words("TEST"), Column::numbers("TOKENS/S")]);
    let mut table = Table::new(columns);
    for record in records {
        let mut cells = vec![
            record.model_type.clone(),
            record.size(),
            record.parameters(),
            record.backends.clone(),
            record.n_threads.to_string(),
        ];
        cells.extend(varying.iter().map(|(_, value)| value(record)));
        cells.extend([record.test(), record.speed()]);
        table.row(cells);
    }
    table
}

pub(super) fn markdown(records: &[Record]) -> String {
    let varying = varying(records);
    let mut titles = vec!["model", "size", "params", "backend", "threads"];
    titles.extend(varying.iter().map(|(title, _)| *title));
    titles.extend(["test", "t/s"]);
    let mut text = format!("| {} |\n|", titles.join(" | "));
    for title in &titles {
        let is_word = matches!(*title, "model" | "backend");
        text.push_str(if is_word { " --- |" } else { " ---: |" });
    }
    text.push('\n');
    for record in records {
        let mut cells = vec![
            record.model_type.clone(),
            record.size(),
            record.parameters(),
            record.backends.clone(),
            record.n_threads.to_string(),
        ];
        cells.extend(varying.iter().map(|(_, value)| value(record)));
        cells.extend([record.test(), record.speed()]);
        writeln!(text, "| {} |", cells.join(" | ")).expect("a string takes everything");
    }
    if let Some(record) = records.first() {
        writeln!(
            text,
            "\nbuild: {} ({})",
            record.build_commit, record.build_number
        )
        .expect("a string takes everything");
    }
    text
}

/// All fields but the samples, as llama-bench has it.
pub(super) fn csv(records: &[Record]) -> String {
    let mut text = String::new();
    for (index, record) in records.iter().enumerate() {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(record) else {
            continue;
        };
        fields.retain(|name, _| !name.starts_with("samples_"));
        if index == 0 {
            let names: Vec<_> = fields.keys().map(String::as_str).collect();
            text.push_str(&names.join(","));
            text.push('\n');
        }
        let values: Vec<_> = fields
            .values()
            .map(|value| {
                let plain = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                format!("\"{}\"", plain.replace('"', "\"\""))
            })
            .collect();
        text.push_str(&values.join(","));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use aluco_proto::{LoadedModel, ModelHandle};

    use super::*;

    fn records() -> Vec<Record> {
        let report = BenchReport {
            model: LoadedModel {
                model: ModelHandle(1),
                architecture: "llama".to_owned(),
                description: "llama 135M Q4_1".to_owned(),
                parameters: 134_515_008,
                weights_bytes: 96_576_768,
                context_train_tokens: 8192,
                context_tokens: 512,
                sequences_max: 1,
                batch_tokens: 2048,
                micro_batch_tokens: 512,
                threads: 2,
                vocabulary: 49152,
                has_chat_template: true,
                recurrent: false,
                load_ms: 1.0,
                memory: Vec::new(),
            },
            build_number: 12032,
            build_commit: "0a1b2c3".to_owned(),
            backends: "CPU".to_owned(),
            cpu_info: "a CPU, \"fast\"".to_owned(),
            gpu_info: String::new(),
            tests: vec![
                BenchTestResult {
                    test: BenchTest {
                        prompt_tokens: 512,
                        generated_tokens: 0,
                        depth_tokens: 0,
                    },
                    started_at_s: 1_700_000_000,
                    samples_ns: vec![1_000_000_000, 2_000_000_000],
                },
                BenchTestResult {
                    test: BenchTest {
                        prompt_tokens: 4,
                        generated_tokens: 2,
                        depth_tokens: 64,
                    },
                    started_at_s: 1_700_000_100,
                    samples_ns: vec![500_000_000],
                },
            ],
        };
        let kv = (KvType::F16, KvType::F16);
        report
            .tests
            .iter()
            .zip([FlashAttention::Auto, FlashAttention::On])
            .map(|(test, flash)| Record::new(&report, test, Path::new("/m.gguf"), kv, flash, None))
            .collect()
    }

    #[test]
    fn speeds_are_averaged_over_repetitions() {
        let records = records();
        assert!((records[0].avg_ts - 384.0).abs() < 1e-9);
        assert!((records[0].stddev_ts - 181.019_335_983_756_17).abs() < 1e-6);
        assert_eq!(records[0].avg_ns, 1_500_000_000);
        assert_eq!(records[0].stddev_ns, 707_106_781);
        assert!(records[1].stddev_ts.abs() < f64::EPSILON);
        assert_eq!(records[0].test_time, "2023-11-14T22:13:20Z");
    }

    #[test]
    fn results_are_told_in_three_forms() {
        let records = records();
        insta::assert_snapshot!("table", table(&records).render(None));
        insta::assert_snapshot!("markdown", markdown(&records));
        insta::assert_snapshot!("csv", csv(&records));
    }
}
