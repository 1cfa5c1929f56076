//! What was computed is there again after the worker was killed, and after the model was unloaded.

mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use aluco_prefix::disk;
use aluco_proto::{
    CacheOptions, ChatPrompt, FlashAttention, KvType, LoadOptions, Miss, Prompt, Sampling,
    Speculation, Token,
};
use serde_json::{Value, json};
use support::{
    Outcome, PATIENCE, Worker, gate::Gate, greedy, stored::tokens_on_disk, tiny, turns,
    without_cache,
};
use tiny::Kind;

const BEGINNING_TOKENS: usize = 600;
const TURN_TOKENS: usize = 100;
const REPLY_TOKENS: u32 = 16;
const BLOCK_TOKENS: u32 = 256;

/// What may be missing at the end of a conversation: the last token, and an end that is sooner computed than stored.
const END_TOKENS: u32 = 1 + 16;

fn options(folder: &Path) -> LoadOptions {
    LoadOptions {
        kv_type_k: KvType::F32,
        kv_type_v: KvType::F32,
        flash_attention: FlashAttention::Off,
        cache: CacheOptions {
            folder: Some(folder.to_owned()),
            // Else a disk that is nearly full is complained of.
            disk_bytes: Some(1 << 30),
            ..CacheOptions::default()
        },
        ..tiny::options(4096)
    }
}

fn ask(worker: &mut Worker, prompt: &[Token]) -> Outcome {
    let mut spec = greedy(Prompt::Tokens(prompt.to_vec()), REPLY_TOKENS);
    spec.sampling.ignore_end = true;
    let outcome = worker.run(spec);
    assert_eq!(outcome.failure, None);
    outcome
}

/// So many turns of a conversation; gives the prompt of the next one.
fn talk(worker: &mut Worker, turns: u64) -> Vec<Token> {
    let mut conversation = turns::text(1, BEGINNING_TOKENS);
    for turn in 0..turns {
        conversation.extend(turns::text(10 + turn, TURN_TOKENS));
        let outcome = ask(worker, &conversation);
        conversation.extend(&outcome.tokens[0]);
    }
    conversation.extend(turns::text(10 + turns, TURN_TOKENS));
    conversation
}

/// What a model without a store says.
fn expected(kind: Kind, folder: &Path, prompt: &[Token]) -> Vec<Token> {
    let mut worker = Worker::start();
    worker.load_file(
        &tiny::path(kind),
        LoadOptions {
            cache: without_cache(),
            ..options(folder)
        },
    );
    ask(&mut worker, prompt).tokens.remove(0)
}

/// Waits until no more than so many tokens at the end of a conversation are not on disk, where they come behind the replies.
fn wait_for_disk(folder: &Path, conversation: &[Token], is_cut_anywhere: bool, missing_most: u32) {
    let began = Instant::now();
    loop {
        let stored = tokens_on_disk(folder, conversation, is_cut_anywhere);
        if conversation.len() <= stored + missing_most as usize {
            return;
        }
        let of = conversation.len();
        assert!(began.elapsed() < PATIENCE, "{stored} of {of} are on disk");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A new worker has a prompt from disk but for so many tokens, and says what is right.
fn assert_comes_back(kind: Kind, folder: &Path, prompt: &[Token], computed_most: u32) {
    let mut worker = Worker::start();
    worker.load_file(&tiny::path(kind), options(folder));
    let outcome = ask(&mut worker, prompt);
    eprintln!("{kind}: {:?} of {}", outcome.cache, prompt.len());
    assert!(outcome.cache.disk_tokens > 0, "{:?}", outcome.cache);
    assert!(
        outcome.computed_tokens() <= computed_most,
        "{:?}",
        outcome.usage
    );
    assert_eq!(outcome.tokens[0], expected(kind, folder, prompt));
    assert_eq!(worker.complaints, [] as [String; 0]);
}

fn survives_a_kill(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    worker.load_file(&tiny::path(kind), options(folder.path()));
    let prompt = talk(&mut worker, 6);
    let most = TURN_TOKENS as u32 + 1 + 2 * BLOCK_TOKENS;
    wait_for_disk(folder.path(), &prompt, tiny::is_cut_anywhere(kind), most);
    worker.kill();

    assert_comes_back(kind, folder.path(), &prompt, most);
}

/// Whatever is on disk at the moment of the kill, what is said is right.
fn survives_a_kill_at_once(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    worker.load_file(&tiny::path(kind), options(folder.path()));
    let prompt = talk(&mut worker, 3);
    worker.kill();
    let mut worker = Worker::start();
    worker.load_file(&tiny::path(kind), options(folder.path()));
    let outcome = ask(&mut worker, &prompt);
    assert_eq!(outcome.tokens[0], expected(kind, folder.path(), &prompt));
    assert_eq!(worker.complaints, [] as [String; 0]);
}

fn survives_an_unload(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    worker.load_file(&tiny::path(kind), options(folder.path()));
    let prompt = talk(&mut worker, 6);
    worker.unload();
    worker.load_file(&tiny::path(kind), options(folder.path()));
    let outcome = ask(&mut worker, &prompt);
    assert_eq!(outcome.cache.device_tokens + outcome.cache.ram_tokens, 0);
    // Everything but the new message.
    let most = TURN_TOKENS as u32 + END_TOKENS;
    assert!(outcome.computed_tokens() <= most, "{:?}", outcome.usage);
    assert_eq!(outcome.tokens[0], expected(kind, folder.path(), &prompt));
    assert_eq!(worker.complaints, [] as [String; 0]);
}

/// A first prompt lies on disk while its reply runs if it took long.
fn is_on_disk_before_its_reply_ends(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let [slow, last] = [2, 200].map(Gate::at);
    let faults = format!("{};{}", slow.fault(), last.fault());
    let mut worker = Worker::with_variable("ALUCO_FAULT", &faults);
    worker.load_file(
        &tiny::path(kind),
        LoadOptions {
            speculation: Speculation::Off,
            ..options(folder.path())
        },
    );
    let prompt = turns::text(1, 2000);
    let mut spec = greedy(Prompt::Tokens(prompt.clone()), 1000);
    spec.sampling.ignore_end = true;
    worker.generate(spec);
    // Longer than what is worth writing.
    let held = slow.reached();
    std::thread::sleep(Duration::from_millis(2100));
    drop(held);
    let held = last.reached();
    let most = TURN_TOKENS as u32 + 1 + 2 * BLOCK_TOKENS;
    wait_for_disk(folder.path(), &prompt, tiny::is_cut_anywhere(kind), most);
    worker.kill();
    drop(held);

    assert_comes_back(kind, folder.path(), &prompt, most);
}

macro_rules! for_kinds {
    ($($name:ident: $kind:ident,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn a_conversation_survives_a_kill() {
                survives_a_kill(Kind::$kind);
            }

            #[test]
            fn what_is_said_after_a_kill_at_any_moment_is_right() {
                survives_a_kill_at_once(Kind::$kind);
            }

            #[test]
            fn a_first_prompt_that_took_long_survives_a_kill_in_mid_reply() {
                is_on_disk_before_its_reply_ends(Kind::$kind);
            }

            #[test]
            fn a_conversation_survives_an_unload() {
                survives_an_unload(Kind::$kind);
            }
        }
    )*};
}

for_kinds! {
    full_attention: FullAttention,
    sliding_window: SlidingWindow,
    hybrid_with_delta_nets: HybridDeltaNet,
    recurrent: Recurrent,
}

/// All files below a folder that hold entries.
fn entry_files(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            entry_files(&path, files);
        } else if fs::metadata(&path).unwrap().len() > 16 << 10 {
            files.push(path);
        }
    }
}

#[test]
fn a_damaged_file_is_not_believed() {
    for kind in [Kind::FullAttention, Kind::SlidingWindow] {
        let folder = tempfile::tempdir().unwrap();
        let mut worker = Worker::start();
        worker.load_file(&tiny::path(kind), options(folder.path()));
        let prompt = talk(&mut worker, 3);
        worker.unload();
        let mut files = Vec::new();
        entry_files(folder.path(), &mut files);
        assert!(files.len() > 2, "{files:?}");
        let right = expected(kind, folder.path(), &prompt);
        for file in &files {
            // An end that a block covers by now is gone.
            let Ok(mut bytes) = fs::read(file) else {
                continue;
            };
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(file, bytes).unwrap();
            // Once with what is left, and once with what was then stored anew.
            for is_whole in [false, true] {
                worker.load_file(&tiny::path(kind), options(folder.path()));
                let outcome = ask(&mut worker, &prompt);
                assert_eq!(outcome.tokens[0], right);
                let disk_tokens = outcome.cache.disk_tokens;
                let is_found = disk_tokens > prompt.len() as u32 - BLOCK_TOKENS;
                assert!(is_found || !is_whole, "{kind}: {disk_tokens} tokens");
                worker.unload();
            }
        }
        // Not every file has to be read each time.
        assert!(!worker.complaints.is_empty());
    }
}

#[test]
fn what_cannot_be_put_back_is_tried_once_and_stored_anew() {
    for kind in [Kind::FullAttention, Kind::SlidingWindow] {
        let folder = tempfile::tempdir().unwrap();
        let mut worker = Worker::start();
        worker.load_file(&tiny::path(kind), options(folder.path()));
        let prompt = talk(&mut worker, 3);
        worker.unload();
        // A file that is sound, of a state that is none.
        let stored = disk::folders(folder.path())[0].folder();
        let found = stored.survey().found;
        let block = found.iter().find(|found| found.entry.begin == BLOCK_TOKENS);
        let block = &block.unwrap().entry;
        stored.remove(&block.key).unwrap();
        stored.write(block, b"an owl and no state").unwrap();

        worker.load_file(&tiny::path(kind), options(folder.path()));
        let right = expected(kind, folder.path(), &prompt);
        let complaints = worker.complaints.len();
        for _ in 0..3 {
            assert_eq!(ask(&mut worker, &prompt).tokens[0], right);
            assert_eq!(worker.complaints.len(), complaints + 1);
        }
        worker.unload();
        worker.load_file(&tiny::path(kind), options(folder.path()));
        let outcome = ask(&mut worker, &prompt);
        assert_eq!(outcome.tokens[0], right);
        let disk_tokens = outcome.cache.disk_tokens;
        let is_found = disk_tokens > prompt.len() as u32 - BLOCK_TOKENS;
        assert!(is_found, "{kind}: {disk_tokens} tokens");
        assert_eq!(worker.complaints.len(), complaints + 1);
    }
}

#[test]
fn what_was_computed_with_other_cells_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny::path(Kind::FullAttention);
    let mut worker = Worker::start();
    worker.load_file(&path, options(folder.path()));
    let prompt = talk(&mut worker, 2);
    worker.unload();
    worker.load_file(
        &path,
        LoadOptions {
            kv_type_k: KvType::F16,
            kv_type_v: KvType::F16,
            ..options(folder.path())
        },
    );
    let outcome = ask(&mut worker, &prompt);
    assert_eq!(outcome.usage.cached_tokens, 0);
    assert_eq!(outcome.cache.miss, Some(Miss::FingerprintChanged));
    // The first way to compute it is there still.
    worker.unload();
    worker.load_file(&path, options(folder.path()));
    assert!(ask(&mut worker, &prompt).cache.disk_tokens > 512);
}

/// A turn of a conversation, and its reply, which spells more than others do: the tokenizer would take words where it takes letters.
fn say(worker: &mut Worker, messages: &mut Vec<Value>, seed: u32, text: &str) -> Outcome {
    messages.push(json!({"role": "user", "content": text}));
    let mut spec = greedy(
        Prompt::Chat(ChatPrompt {
            messages: messages.clone().into(),
            template_arguments: serde_json::Map::new(),
            add_generation_prompt: true,
        }),
        80,
    );
    let letters = ["a", "e", "o", "n", "s", "t"];
    let letters = letters.map(|letter| (worker.tokenize(letter, false)[0], 10.0));
    spec.sampling = Sampling {
        temperature: 1.0,
        seed: Some(seed),
        frequency_penalty: 1.0,
        logit_bias: letters.to_vec(),
        ignore_end: true,
        ..Sampling::default()
    };
    let outcome = worker.run(spec);
    assert_eq!(outcome.failure, None);
    messages.push(json!({"role": "assistant", "content": outcome.text[0]}));
    outcome
}

#[test]
fn replies_keep_their_tokens_though_the_process_that_generated_them_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let options = || LoadOptions {
        context_tokens: Some(4096),
        threads: Some(2),
        speculation: Speculation::Off,
        cache: CacheOptions {
            folder: Some(folder.path().to_owned()),
            // Else a disk that is nearly full is complained of.
            disk_bytes: Some(1 << 30),
            ..CacheOptions::default()
        },
        ..LoadOptions::default()
    };
    let mut worker = Worker::start();
    worker.load(options());
    let rules = "Answer at length, with rare words, and never twice in the same way. ".repeat(20);
    let mut messages = vec![json!({"role": "system", "content": rules})];
    let mut generated_otherwise = 0;
    let mut conversation = Vec::new();
    for turn in 0..6 {
        let outcome = say(&mut worker, &mut messages, turn, "Tell me about owls.");
        conversation = [&*outcome.prompt, &outcome.tokens[0]].concat();
        let own = worker.tokenize(&outcome.text[0], false);
        if turn < 3 && own != outcome.tokens[0] {
            generated_otherwise += 1;
        }
    }
    // Else this would show nothing. Behind these three there is more than a block.
    assert!(generated_otherwise > 0);
    let known = conversation.len() as u32;
    wait_for_disk(folder.path(), &conversation, true, END_TOKENS);
    worker.kill();

    let mut worker = Worker::start();
    worker.load(options());
    let outcome = say(&mut worker, &mut messages, 7, "And what do they eat?");
    eprintln!("{:?} {:?}, {known} known", outcome.cache, outcome.usage);
    let new = outcome.usage.prompt_tokens.saturating_sub(known);
    assert!(new < 40, "{new} new tokens");
    let computed = outcome.computed_tokens();
    assert!(
        computed <= new + END_TOKENS,
        "{computed} for {new} new ones"
    );
    assert_eq!(outcome.cache.miss, None);
    // What comes after that is in memory again.
    let outcome = say(&mut worker, &mut messages, 8, "Why?");
    assert!(outcome.computed_tokens() <= 40, "{:?}", outcome.usage);
    assert_eq!(worker.complaints, [] as [String; 0]);
}
