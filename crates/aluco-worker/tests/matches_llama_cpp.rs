//! The worker's output is llama.cpp's own: the same token ids, and the same log probabilities to the last bit, as the library gives when
//! it is called directly, without any of our code between.
#![allow(unsafe_code)] // The reference calls the raw C API.

mod support;

use std::{ffi::CString, path::Path};

use aluco_proto::{FlashAttention, LoadOptions, Prompt, Speculation, Token};
use llama_cpp_sys_4 as sys;
use support::{Worker, greedy, model_path};

struct Reference {
    tokens: Vec<Token>,
    logprobs: Vec<f32>,
}

/// Greedy decoding by the C API alone, in one sequence, with llama.cpp's own splitting of the prompt into micro-batches.
fn reference(path: &Path, prompt: &[Token], count: usize, options: &LoadOptions) -> Reference {
    // SAFETY: plain use of the C API as its header describes it; everything made here is freed here, and pointers do not outlive
    // what they point to.
    unsafe {
        sys::llama_backend_init();
        let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let model =
            sys::llama_model_load_from_file(path.as_ptr(), sys::llama_model_default_params());
        assert!(!model.is_null());
        let vocab = sys::llama_model_get_vocab(model);
        let vocabulary = usize::try_from(sys::llama_vocab_n_tokens(vocab)).unwrap();
        let mut params = sys::llama_context_default_params();
        params.n_ctx = options.context_tokens.unwrap();
        params.n_batch = options.batch_tokens;
        params.n_ubatch = options.micro_batch_tokens;
        params.n_threads = 2;
        params.n_threads_batch = 2;
        params.n_seq_max = options.sequences_max;
        params.kv_unified = true;
        if options.flash_attention == FlashAttention::Off {
            params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
        }
        let context = sys::llama_init_from_model(model, params);
        assert!(!context.is_null());
        let mut result = Reference {
            tokens: Vec::new(),
            logprobs: Vec::new(),
        };
        let mut input = prompt.to_vec();
        for _ in 0..count {
            for chunk in input.chunks_mut(options.batch_tokens as usize) {
                let batch = sys::llama_batch_get_one(
                    chunk.as_mut_ptr(),
                    i32::try_from(chunk.len()).unwrap(),
                );
                assert_eq!(sys::llama_decode(context, batch), 0);
            }
            let logits =
                std::slice::from_raw_parts(sys::llama_get_logits_ith(context, -1), vocabulary);
            let (token, best) =
                logits
                    .iter()
                    .enumerate()
                    .fold((0, f32::NEG_INFINITY), |best, (token, logit)| {
                        if *logit > best.1 {
                            (token, *logit)
                        } else {
                            best
                        }
                    });
            let sum: f64 = logits
                .iter()
                .map(|logit| f64::from(logit - best).exp())
                .sum();
            #[expect(clippy::cast_possible_truncation)]
            result
                .logprobs
                .push((f64::from(best) - (f64::from(best) + sum.ln())) as f32);
            let token = Token::try_from(token).unwrap();
            if sys::llama_vocab_is_eog(vocab, token) {
                break;
            }
            result.tokens.push(token);
            input = vec![token];
        }
        result.logprobs.truncate(result.tokens.len());
        sys::llama_free(context);
        sys::llama_model_free(model);
        result
    }
}

fn compare(flash_attention: FlashAttention) {
    let options = LoadOptions {
        context_tokens: Some(2048),
        batch_tokens: 512,
        micro_batch_tokens: 128,
        threads: Some(2),
        flash_attention,
        cache: support::without_cache(),
        // One token per step, as the reference does.
        speculation: Speculation::Off,
        ..LoadOptions::default()
    };
    let mut worker = Worker::start();
    worker.load(options.clone());
    let story = "The tawny owl hunts at night. It listens from a branch, drops without a sound, and is gone before the leaves move. ";
    // Shorter than the micro-batch, one micro-batch exactly, and longer than several.
    for (text, length) in [
        (story.to_owned(), None),
        (story.repeat(20), Some(128)),
        (story.repeat(30), None),
    ] {
        let mut prompt = worker.tokenize(&text, true);
        if let Some(length) = length {
            prompt.truncate(length);
        }
        // The worker computes one micro-batch per step, and so must the reference, for the bits to be the same.
        let steps = LoadOptions {
            batch_tokens: 128,
            ..options.clone()
        };
        let expected = reference(&model_path(), &prompt, 24, &steps);
        let mut spec = greedy(Prompt::Tokens(prompt.clone()), 24);
        spec.logprobs = Some(0);
        let outcome = worker.run(spec);
        assert_eq!(outcome.failure, None);
        assert_eq!(
            outcome.tokens[0],
            expected.tokens,
            "prompt of {} tokens",
            prompt.len()
        );
        assert_eq!(
            outcome.logprobs[0]
                .iter()
                .map(|logprob| logprob.logprob.to_bits())
                .collect::<Vec<_>>(),
            expected
                .logprobs
                .iter()
                .map(|logprob| logprob.to_bits())
                .collect::<Vec<_>>(),
            "prompt of {} tokens: {:?} against {:?}",
            prompt.len(),
            outcome.logprobs[0],
            expected.logprobs
        );
        // And with llama.cpp splitting a larger batch by itself.
        assert_eq!(
            outcome.tokens[0],
            reference(&model_path(), &prompt, 24, &options).tokens
        );
    }
}

#[test]
fn greedy_tokens_and_logits_equal_the_librarys_with_flash_attention() {
    compare(FlashAttention::Auto);
}

#[test]
fn greedy_tokens_and_logits_equal_the_librarys_without_flash_attention() {
    compare(FlashAttention::Off);
}
