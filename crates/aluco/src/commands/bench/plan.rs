//! From flags to measurements: every combination of the values that are listed, in llama-bench's order.

use aluco_proto::{BenchSpec, BenchTest, FlashAttention, KvType, LoadOptions};

use crate::{cli::BenchArgs, config::KV_TYPES};

/// Most values that a range may stand for.
const VALUES_MAX: usize = 1000;

/// One measurement per way of loading the model, each with all tests. The base gives what no flag speaks of.
pub(super) fn of(args: &BenchArgs, base: &LoadOptions) -> Result<Vec<BenchSpec>, String> {
    let tests = tests(args)?;
    if tests.is_empty() {
        return Err("there is nothing to measure: all of -p, -n and -pg are 0".to_owned());
    }
    let batches = numbers("-b", &args.batch_size)?;
    let micro_batches = numbers("-ub", &args.ubatch_size)?;
    let types_k = kv_types("-ctk", &args.cache_type_k)?;
    let types_v = kv_types("-ctv", &args.cache_type_v)?;
    let flash = flash_attention(&args.flash_attn)?;
    let gpu_layers = numbers("-ngl", &args.n_gpu_layers)?;
    let threads = numbers("-t", &args.threads)?;
    if threads.contains(&0) {
        return Err("-t 0: at least one thread is needed".to_owned());
    }
    let mut plan = Vec::new();
    for gpu_layers in or_default(&gpu_layers, base.gpu_layers) {
        for &flash_attention in &flash {
            for &batch_tokens in &batches {
                for &micro_batch_tokens in &micro_batches {
                    for &kv_type_k in &types_k {
                        for &kv_type_v in &types_v {
                            for threads in or_default(&threads, base.threads) {
                                let options = LoadOptions {
                                    gpu_layers,
                                    flash_attention,
                                    batch_tokens: batch_tokens.max(1),
                                    micro_batch_tokens: micro_batch_tokens.max(1),
                                    kv_type_k,
                                    kv_type_v,
                                    threads,
                                    // One sequence, as long as the longest test.
                                    sequences_max: 1,
                                    context_tokens: None,
                                    ..base.clone()
                                };
                                plan.push(BenchSpec {
                                    options,
                                    tests: tests.clone(),
                                    repetitions: args.repetitions,
                                    warm_up: !args.no_warmup,
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(plan)
}

fn or_default(values: &[u32], default: Option<u32>) -> Vec<Option<u32>> {
    if values.is_empty() {
        vec![default]
    } else {
        values.iter().copied().map(Some).collect()
    }
}

fn tests(args: &BenchArgs) -> Result<Vec<BenchTest>, String> {
    let prompts = numbers("-p", &args.n_prompt)?;
    let generations = numbers("-n", &args.n_gen)?;
    let mut pairs = Vec::new();
    for pair in &args.prompt_gen {
        let parsed = pair
            .split_once(',')
            .and_then(|(prompt, decode)| Some((prompt.parse().ok()?, decode.parse().ok()?)));
        pairs.push(parsed.ok_or_else(|| {
            format!("-pg {pair}: a prompt and a generation are expected, as in 512,128")
        })?);
    }
    let mut tests = Vec::new();
    for depth_tokens in numbers("-d", &args.n_depth)? {
        let alone = prompts.iter().map(|&prompt| (prompt, 0));
        let decoded = generations.iter().map(|&generated| (0, generated));
        for (prompt_tokens, generated_tokens) in alone.chain(decoded).chain(pairs.iter().copied()) {
            if prompt_tokens > 0 || generated_tokens > 0 {
                tests.push(BenchTest {
                    prompt_tokens,
                    generated_tokens,
                    depth_tokens,
                });
            }
        }
    }
    Ok(tests)
}

/// Numbers and ranges, separated by commas.
fn numbers(flag: &str, lists: &[String]) -> Result<Vec<u32>, String> {
    let mut values = Vec::new();
    for item in lists.iter().flat_map(|list| list.split(',')) {
        let range = range(item.trim());
        values.extend(range.map_err(|problem| format!("{flag} {item}: {problem}"))?);
        if values.len() > VALUES_MAX {
            return Err(format!("{flag}: these are more than {VALUES_MAX} values"));
        }
    }
    Ok(values)
}

/// `5`, `0-8`, `0-8192+4096` or `128-1024*2`.
fn range(item: &str) -> Result<Vec<u32>, String> {
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| "a number or a range such as 0-8192+4096 is expected".to_owned())
    };
    let Some((first, rest)) = item.split_once('-') else {
        return Ok(vec![number(item)?]);
    };
    let first = number(first)?;
    let (last, step) = if let Some((last, step)) = rest.split_once('+') {
        (last, Step::Add(number(step)?))
    } else if let Some((last, factor)) = rest.split_once('*') {
        (last, Step::Multiply(number(factor)?))
    } else {
        (rest, Step::Add(1))
    };
    let last = number(last)?;
    let mut values = Vec::new();
    let mut value = Some(first);
    while let Some(current) = value.filter(|value| *value <= last) {
        values.push(current);
        if values.len() > VALUES_MAX {
            return Err(format!("this range has more than {VALUES_MAX} values"));
        }
        value = match step {
            Step::Add(step) => current.checked_add(step),
            Step::Multiply(factor) => current.checked_mul(factor),
        };
        if value == Some(current) {
            return Err("this range never ends".to_owned());
        }
    }
    Ok(values)
}

enum Step {
    Add(u32),
    Multiply(u32),
}

fn kv_types(flag: &str, words: &[String]) -> Result<Vec<KvType>, String> {
    let one = |word: &String| {
        let found = KV_TYPES.iter().find(|(known, _)| known == word);
        found.map(|(_, kv_type)| *kv_type).ok_or_else(|| {
            let known = KV_TYPES.map(|(known, _)| known).join(", ");
            format!("{flag} {word}: the types are {known}")
        })
    };
    words.iter().map(one).collect()
}

fn flash_attention(words: &[String]) -> Result<Vec<FlashAttention>, String> {
    words
        .iter()
        .map(|word| match word.as_str() {
            "auto" | "-1" => Ok(FlashAttention::Auto),
            "1" | "on" => Ok(FlashAttention::On),
            "0" | "off" => Ok(FlashAttention::Off),
            other => Err(format!("-fa {other}: auto, 0 or 1 is expected")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, expand};

    fn plan(flags: &str) -> Result<Vec<BenchSpec>, String> {
        let line = format!("aluco bench m {flags}");
        let arguments = line.split_whitespace().map(Into::into);
        let cli = Cli::try_parse_from(expand(arguments)).unwrap();
        let Command::Bench(args) = cli.command else {
            panic!("not bench");
        };
        of(&args, &LoadOptions::default())
    }

    fn tests_of(flags: &str) -> Vec<(u32, u32, u32)> {
        let plan = plan(flags).unwrap();
        let tests = plan[0].tests.iter();
        tests
            .map(|it| (it.prompt_tokens, it.generated_tokens, it.depth_tokens))
            .collect()
    }

    #[test]
    fn the_defaults_are_llama_benchs() {
        let plan = plan("").unwrap();
        assert_eq!(plan.len(), 1);
        assert_eq!(plan[0].repetitions, 5);
        assert!(plan[0].warm_up);
        assert_eq!(plan[0].options.batch_tokens, 2048);
        assert_eq!(plan[0].options.micro_batch_tokens, 512);
        assert_eq!(tests_of(""), [(512, 0, 0), (0, 128, 0)]);
    }

    #[test]
    fn lists_multiply() {
        let found = plan("-ub 256,512 -fa 0,1 -t 1,2 -ctk q8_0 --no-warmup -r 2").unwrap();
        assert_eq!(found.len(), 8);
        assert_eq!(found[0].options.kv_type_k, KvType::Q8_0);
        assert_eq!(found[0].options.threads, Some(1));
        assert_eq!(found[1].options.threads, Some(2));
        assert!(!found[0].warm_up);
        assert_eq!(
            tests_of("-p 8,16 -n 0 -pg 4,2 -d 0-64+32"),
            [
                (8, 0, 0),
                (16, 0, 0),
                (4, 2, 0),
                (8, 0, 32),
                (16, 0, 32),
                (4, 2, 32),
                (8, 0, 64),
                (16, 0, 64),
                (4, 2, 64),
            ]
        );
    }

    #[test]
    fn ranges_are_spelt_out() {
        assert_eq!(range("7").unwrap(), [7]);
        assert_eq!(range("1-3").unwrap(), [1, 2, 3]);
        assert_eq!(range("0-100+50").unwrap(), [0, 50, 100]);
        assert_eq!(range("128-1024*2").unwrap(), [128, 256, 512, 1024]);
        for wrong in ["", "x", "1-", "1-5+0", "1-5*1", "0-5*2", "0-4294967295"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_measured_is_named() {
        for flags in [
            "-p 0 -n 0",
            "-ctk q9",
            "-fa maybe",
            "-p many",
            "-pg 5",
            "-t 0",
        ] {
            assert!(plan(flags).is_err(), "{flags}");
        }
    }
}
